// A service that says what it understood: one line of JSON for each whole request, as its answer and on its output.
// The parser is the lenient one: what it forgives must not get as far as here.
'use strict';
const http = require('node:http');

const pairs = (raw) => raw.reduce((all, text, at) => (at % 2 ? all : [...all, [text, raw[at + 1]]]), []);

const server = http.createServer({ insecureHTTPParser: true }, (request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('error', () => {});
  request.on('end', () => {
    const record = JSON.stringify({
      method: request.method,
      target: request.url,
      headers: pairs(request.rawHeaders),
      trailers: pairs(request.rawTrailers),
      body: Buffer.concat(chunks).toString('latin1'),
    });
    process.stdout.write(`${record}\n`);
    response.end(record);
  });
});
server.listen(0, '127.0.0.1', () => process.stdout.write(`listening on ${server.address().port}\n`));
