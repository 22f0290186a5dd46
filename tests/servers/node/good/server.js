// A node server on the inherited socket that names its release: RELEASE_DIR is read once, while booting.
const http = require('node:http');
const net = require('node:net');
const path = require('node:path');

const release = path.basename(process.env.RELEASE_DIR);
let stopping = false;

const server = http.createServer((request, response) => {
  const body = `release=${release} pid=${process.pid}\n`;
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
  // Accept nothing more. http's own close() would also cut kept connections at once, on some of which a request is
  // under way; so they get half a second in which every answer says that the connection ends with it.
  net.Server.prototype.close.call(server);
  setTimeout(() => server.closeIdleConnections(), 500);
  // Then nothing keeps the process alive, and it exits by itself.
});

server.listen({ fd: 3 });
