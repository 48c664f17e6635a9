// Back-pressure as stock @grpc/grpc-js sees it: grpcpp_pressure.cc's twin, same arguments, same output.
//
//   node pressure.js TARGET slow_reader REPLIES BYTES | slow_handler MESSAGES BYTES BUSY_US
'use strict';
const path = require('path');
const modules = process.env.INTEROP_NODE_MODULES;
const grpc = require(path.join(modules, '@grpc/grpc-js'));
const loader = require(path.join(modules, '@grpc/proto-loader'));

const proto = path.join(__dirname, '..', '..', 'examples', 'echo', 'echo.proto');
const api = grpc.loadPackageDefinition(loader.loadSync(proto, {keepCase: true, defaults: true})).split.examples;
const [target, what, n, bytes, busy] = process.argv.slice(2).map((a, i) => (i < 2 ? a : Number(a)));
const stub = new api.Echo(target, grpc.credentials.createInsecure());

function end(status, got, ahead) {
  console.log(JSON.stringify({messages: got, ahead}));
  if (status.code !== 0 || got !== n) {
    console.error(`${got} of ${n}: ${status.code} ${status.details}`);
    process.exitCode = 1;
  }
  stub.close();
  process.stdin.destroy();
}

function slowReader() {
  const wanted = Buffer.alloc(bytes);
  for (let i = 0; i < bytes; i++) wanted[i] = i & 0xff;
  let got = 0;
  const call = stub.Server({reply_bytes: bytes, replies: n});
  call.on('data', (a) => {
    if (!wanted.equals(a.payload)) call.cancel();
    if (++got > 1) return;
    call.pause();
    process.stdin.once('data', () => call.resume());
    console.log('paused');
  });
  call.on('error', () => {});
  call.on('status', (s) => end(s, got, 0));
}

function slowHandler() {
  let sent = 0, got = 0, ahead = 0;
  const call = stub.Bidi();
  // A message at a time: the next when this one was taken.
  const send = (i) => {
    if (i === n) {
      call.end();
      return;
    }
    call.write({payload: Buffer.alloc(bytes, i & 0xff), busy_us: busy}, () => { sent++; send(i + 1); });
  };
  call.on('data', (a) => {
    if (!Buffer.alloc(bytes, got & 0xff).equals(a.payload)) call.cancel();
    got++;
    ahead = Math.max(ahead, sent - got);
  });
  call.on('error', () => {});
  call.on('status', (s) => end(s, got, ahead));
  send(0);
}

if (what === 'slow_reader') slowReader();
else slowHandler();
