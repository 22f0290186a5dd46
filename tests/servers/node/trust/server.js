// A node server that boots, and then is what the file `behaviour` of its release says.
//
// `sick`: its health is 500. `wakes`: 503, until the test has opened the gate "awake". `hangs`: no answer, until it has
// opened the gate "hang". `dies`: all is well in its rehearsal, and in slot 1 it ends with status 7 behind the gate "die".
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const path = require('node:path');

const release = path.basename(process.env.RELEASE_DIR);
const { WORKER_INDEX: slot, WORKER_PHASE: phase } = process.env;
const behaviour = fs.readFileSync('behaviour', 'utf8').trim();
let awake = false;
let stopping = false;

// Waits at a gate of the test, which keeps the process from nothing.
const gate = (name, passed) => {
  const test = net.connect('../../gates.sock');
  test.unref();
  test.write(`gate ${name} ${process.pid} ${slot} ${phase} ${release}\n`);
  test.once('data', () => {
    test.destroy();
    passed();
  });
};

const health = (answer) => {
  if (behaviour === 'sick') return answer(500, 'no database');
  if (behaviour === 'wakes' && !awake) {
    console.log('health: still waking up');
    return answer(503, 'still waking up');
  }
  if (behaviour === 'hangs') return gate('hang', () => answer(200, 'well'));
  return answer(200, 'well');
};

const server = http.createServer((request, response) => {
  const answer = (status, text) => {
    const body = `${text}\n`;
    response.statusCode = status;
    response.setHeader('Content-Type', 'text/plain');
    response.setHeader('Content-Length', Buffer.byteLength(body));
    if (stopping) response.setHeader('Connection', 'close');
    response.end(body);
  };
  if (request.url === '/health') health(answer);
  else answer(200, `release=${release} pid=${process.pid}`);
});

// As in ../good/server.js.
const stop = () => {
  stopping = true;
  net.Server.prototype.close.call(server);
  setTimeout(() => server.closeIdleConnections(), 500);
};

process.on('SIGTERM', stop);
if (behaviour === 'wakes') gate('awake', () => { awake = true; });
if (behaviour === 'dies' && slot === '1') {
  gate('die', () => {
    process.exitCode = 7;
    stop();
  });
}

server.listen({ fd: 3 });
