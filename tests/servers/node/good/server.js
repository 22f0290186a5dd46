// A node server on the inherited socket that names its release: RELEASE_DIR is read once, while booting.
const http = require('node:http');
const path = require('node:path');

const release = path.basename(process.env.RELEASE_DIR);
let stopping = false;

const server = http.createServer((request, response) => {
  const body = `${release}\n`;
  const answer = () => {
    response.setHeader('Content-Type', 'text/plain');
    response.setHeader('Content-Length', Buffer.byteLength(body));
    if (stopping) response.setHeader('Connection', 'close');
    response.end(body);
  };
  if (request.url === '/slow') setTimeout(answer, 50);
  else answer();
});

process.on('SIGTERM', () => {
  stopping = true;
  // Accept nothing more, answer what is there, then exit: nothing else keeps the process alive.
  if(process.env.NEWWAY){require('net').Server.prototype.close.call(server);setTimeout(()=>server.closeIdleConnections(),500)}else  server.close();
});

server.listen({ fd: 3 });
