// split.examples.Echo by stock @grpc/grpc-js: grpcpp_server.cc's twin, same arguments, same output.
//
//   node echo_server.js ADDRESS:PORT [CERT KEY]
'use strict';
const fs = require('fs');
const path = require('path');
const modules = process.env.INTEROP_NODE_MODULES;
const grpc = require(path.join(modules, '@grpc/grpc-js'));
const loader = require(path.join(modules, '@grpc/proto-loader'));

const proto = path.join(__dirname, '..', '..', 'examples', 'echo', 'echo.proto');
const api = grpc.loadPackageDefinition(loader.loadSync(proto, {keepCase: true, defaults: true})).split.examples;
const [address, cert, key] = process.argv.slice(2);

function answer(m) {
  if (m.reply_bytes > 64 << 20)
    throw {code: grpc.status.INVALID_ARGUMENT, details: 'reply_bytes: at most 64 MiB'};
  if (!m.reply_bytes) return {payload: m.payload};
  const payload = Buffer.alloc(m.reply_bytes);
  for (let i = 0; i < payload.length; i++) payload[i] = i & 0xff;
  return {payload};
}

function unary(call, done) {
  try {
    done(null, answer(call.request));
  } catch (e) {
    done(e);
  }
}

function client(call, done) {
  let last = Buffer.alloc(0), total = 0;
  call.on('data', (m) => {
    last = m.payload;
    total += m.payload.length;
  });
  call.on('end', () => done(null, {payload: last, reply_bytes: total}));
}

// One message after the other, as fast as the reader takes them.
function server(call) {
  const reply = answer(call.request);
  let left = call.request.replies;
  (function more() {
    while (left > 0) {
      left--;
      if (!call.write(reply)) {
        call.once('drain', more);
        return;
      }
    }
    call.end();
  })();
}

function bidi(call) {
  call.on('data', (m) => {
    if (call.write(answer(m))) return;
    call.pause();
    call.once('drain', () => call.resume());
  });
  call.on('end', () => call.end());
}

const limits = {'grpc.max_receive_message_length': 16 << 20, 'grpc.max_send_message_length': 16 << 20};
const served = new grpc.Server(limits);
served.addService(api.Echo.service, {Unary: unary, Client: client, Server: server, Bidi: bidi});
const credentials = cert === undefined
    ? grpc.ServerCredentials.createInsecure()
    : grpc.ServerCredentials.createSsl(null, [{cert_chain: fs.readFileSync(cert), private_key: fs.readFileSync(key)}], false);
served.bindAsync(address, credentials, (error) => {
  if (error) {
    console.error(String(error));
    process.exit(1);
  }
  if (served.start.length === 0) served.start();
  console.log('ready');
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
