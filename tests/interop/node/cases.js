// The official interoperability cases with stock @grpc/grpc-js: ../grpcio_cases.py's twin, same options, same output.
//
//   node cases.js TARGET [--ca FILE --name NAME] [CASE ...]
'use strict';
const fs = require('fs');
const path = require('path');
// Beside this file, or where the test has put them.
const modules = process.env.INTEROP_NODE_MODULES || path.join(__dirname, 'node_modules');
const grpc = require(path.join(modules, '@grpc/grpc-js'));
const loader = require(path.join(modules, '@grpc/proto-loader'));

const LARGE_REQUEST = 271828, LARGE_RESPONSE = 314159;
const REQUESTS = [27182, 8, 1828, 45904], RESPONSES = [31415, 9, 2653, 58979];
const INITIAL_KEY = 'x-grpc-test-echo-initial', INITIAL = 'test_initial_metadata_value';
const TRAILING_KEY = 'x-grpc-test-echo-trailing-bin', TRAILING = Buffer.from('ababab', 'hex');
const SPECIAL = '\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n';

const definition = loader.loadSync(path.join(__dirname, '..', 'interop.proto'), {keepCase: true, defaults: true});
const api = grpc.loadPackageDefinition(definition).grpc.testing;

function expect(good, what) {
  if (!good) throw new Error(what);
}

function expectBody(payload, size) {
  expect(payload && payload.body.length === size && payload.body.every((b) => b === 0),
    `a body of ${payload ? payload.body.length : 'no'} bytes, not ${size} zeros`);
}

function expectCode(error, code) {
  expect((error ? error.code : 0) === code, `status ${error ? `${error.code} (${error.details})` : 0}, not ${code}`);
}

const limit = (ms = 20000) => ({deadline: Date.now() + ms});
const payload = (size) => ({body: Buffer.alloc(size)});
const large = (more) => ({response_size: LARGE_RESPONSE, payload: payload(LARGE_REQUEST), ...more});
const ask = (size, request = 0, interval_us = 0) => ({response_parameters: [{size, interval_us}], payload: payload(request)});

// {error, answer, initial, trailing}
function unary(client, method, request, metadata = new grpc.Metadata(), options = limit()) {
  return new Promise((resolve) => {
    const facts = {};
    const call = client[method](request, metadata, options, (error, answer) => { facts.error = error; facts.answer = answer; });
    call.on('metadata', (m) => { facts.initial = m; });
    call.on('status', (s) => { facts.trailing = s.metadata; resolve(facts); });
  });
}

// Reads a stream to its end: {error, answers, initial, trailing}; `each(answer, n)` may do something in between.
function drain(call, each = () => {}) {
  return new Promise((resolve, reject) => {
    const facts = {answers: []};
    call.on('metadata', (m) => { facts.initial = m; });
    call.on('data', (a) => {
      facts.answers.push(a);
      try {
        each(a, facts.answers.length);
      } catch (e) {
        reject(e);
      }
    });
    call.on('error', (e) => { facts.error = e; });
    call.on('status', (s) => { facts.trailing = s.metadata; setImmediate(() => resolve(facts)); });
  });
}

function clientStream(client, requests, options = limit(), metadata = new grpc.Metadata()) {
  return new Promise((resolve) => {
    const call = client.StreamingInputCall(metadata, options, (error, answer) => resolve({error, answer}));
    for (const r of requests) call.write(r);
    call.end();
  });
}

const cases = {
  async empty_unary(s) {
    expectCode((await unary(s.test, 'EmptyCall', {})).error, 0);
  },
  async large_unary(s) {
    const {error, answer} = await unary(s.test, 'UnaryCall', large());
    expectCode(error, 0);
    expectBody(answer.payload, LARGE_RESPONSE);
  },
  async cacheable_unary(s) {
    const metadata = new grpc.Metadata();
    metadata.set('x-user-ip', '1.2.3.4');
    const {error, initial} = await unary(s.test, 'CacheableUnaryCall', {}, metadata);
    expectCode(error, 0);
    expect(initial.get('cache-control')[0] === 'max-age=60, public', 'no cache-control');
  },
  async client_streaming(s) {
    const {error, answer} = await clientStream(s.test, REQUESTS.map((n) => ({payload: payload(n)})));
    expectCode(error, 0);
    expect(answer.aggregated_payload_size === 74922, `sum ${answer.aggregated_payload_size}`);
  },
  async server_streaming(s) {
    const call = s.test.StreamingOutputCall({response_parameters: RESPONSES.map((size) => ({size}))}, limit());
    const {error, answers} = await drain(call, (a, n) => expectBody(a.payload, RESPONSES[n - 1]));
    expectCode(error, 0);
    expect(answers.length === RESPONSES.length, `${answers.length} answers`);
  },
  async ping_pong(s) {
    const call = s.test.FullDuplexCall(limit());
    call.write(ask(RESPONSES[0], REQUESTS[0]));
    const {error, answers} = await drain(call, (a, n) => {
      expectBody(a.payload, RESPONSES[n - 1]);
      if (n < RESPONSES.length) call.write(ask(RESPONSES[n], REQUESTS[n]));
      else call.end();
    });
    expectCode(error, 0);
    expect(answers.length === RESPONSES.length, `${answers.length} answers`);
  },
  async half_duplex(s) {
    const call = s.test.HalfDuplexCall(limit());
    for (const size of RESPONSES) call.write(ask(size));
    call.end();
    const {error, answers} = await drain(call, (a, n) => expectBody(a.payload, RESPONSES[n - 1]));
    expectCode(error, 0);
    expect(answers.length === RESPONSES.length, `${answers.length} answers`);
  },
  async empty_stream(s) {
    const call = s.test.FullDuplexCall(limit());
    call.end();
    const {error, answers} = await drain(call);
    expectCode(error, 0);
    expect(answers.length === 0, 'an answer');
  },
  async client_compressed_unary(s) {
    const probe = await unary(s.test, 'UnaryCall', large({expect_compressed: {value: true}}));
    expectCode(probe.error, grpc.status.INVALID_ARGUMENT);
    for (const client of [s.gzip, s.deflate]) {
      const {error, answer} = await unary(client, 'UnaryCall', large({expect_compressed: {value: true}}));
      expectCode(error, 0);
      expectBody(answer.payload, LARGE_RESPONSE);
    }
    expectCode((await unary(s.test, 'UnaryCall', large({expect_compressed: {value: false}}))).error, 0);
  },
  async client_compressed_streaming(s) {
    const one = {payload: payload(27182), expect_compressed: {value: true}};
    const two = {payload: payload(45904), expect_compressed: {value: true}};
    expectCode((await clientStream(s.test, [one])).error, grpc.status.INVALID_ARGUMENT);
    const {error, answer} = await clientStream(s.gzip, [one, two]);
    expectCode(error, 0);
    expect(answer.aggregated_payload_size === 73086, `sum ${answer.aggregated_payload_size}`);
  },
  async server_compressed_unary(s) {
    for (const value of [true, false]) {
      const {error, answer} = await unary(s.test, 'UnaryCall', large({response_compressed: {value}}));
      expectCode(error, 0);
      expectBody(answer.payload, LARGE_RESPONSE);
    }
  },
  async server_compressed_streaming(s) {
    const sizes = [31415, 92653];
    const request = {response_parameters: sizes.map((size, i) => ({size, compressed: {value: i === 0}}))};
    const {error, answers} = await drain(s.test.StreamingOutputCall(request, limit()), (a, n) => expectBody(a.payload, sizes[n - 1]));
    expectCode(error, 0);
    expect(answers.length === 2, `${answers.length} answers`);
  },
  async custom_metadata(s) {
    const metadata = new grpc.Metadata();
    metadata.set(INITIAL_KEY, INITIAL);
    metadata.set(TRAILING_KEY, TRAILING);
    const call = s.test.FullDuplexCall(metadata, limit());
    call.write(ask(LARGE_RESPONSE, LARGE_REQUEST));
    call.end();
    for (const facts of await Promise.all([unary(s.test, 'UnaryCall', large(), metadata), drain(call)])) {
      expectCode(facts.error, 0);
      expect(facts.initial.get(INITIAL_KEY)[0] === INITIAL, `initial metadata ${facts.initial.get(INITIAL_KEY)}`);
      expect(TRAILING.equals(facts.trailing.get(TRAILING_KEY)[0] || Buffer.alloc(0)), 'trailing metadata');
    }
  },
  async status_code_and_message(s) {
    const response_status = {code: 2, message: 'test status message'};
    const call = s.test.FullDuplexCall(limit());
    call.write({response_status});
    call.end();
    for (const {error} of await Promise.all([unary(s.test, 'UnaryCall', {response_status}), drain(call)])) {
      expectCode(error, grpc.status.UNKNOWN);
      expect(error.details === response_status.message, `message ${JSON.stringify(error.details)}`);
    }
  },
  async special_status_message(s) {
    const {error} = await unary(s.test, 'UnaryCall', {response_status: {code: 2, message: SPECIAL}});
    expectCode(error, grpc.status.UNKNOWN);
    expect(error.details === SPECIAL, `message ${JSON.stringify(error.details)}`);
  },
  async unimplemented_method(s) {
    expectCode((await unary(s.test, 'UnimplementedCall', {})).error, grpc.status.UNIMPLEMENTED);
  },
  async unimplemented_service(s) {
    expectCode((await unary(s.none, 'UnimplementedCall', {})).error, grpc.status.UNIMPLEMENTED);
  },
  async cancel_after_begin(s) {
    const {error} = await new Promise((resolve) => {
      const call = s.test.StreamingInputCall(new grpc.Metadata(), limit(), (e) => resolve({error: e}));
      setImmediate(() => call.cancel());
    });
    expectCode(error, grpc.status.CANCELLED);
  },
  async cancel_after_first_response(s) {
    const call = s.test.FullDuplexCall(limit());
    call.write(ask(31415, 27182));
    const {error, answers} = await drain(call, (a) => { expectBody(a.payload, 31415); call.cancel(); });
    expectCode(error, grpc.status.CANCELLED);
    expect(answers.length === 1, `${answers.length} answers`);
  },
  async timeout_on_sleeping_server(s) {
    for (const [ms, request] of [[1, {payload: payload(27182)}], [300, ask(1, 27182, 20000000)]]) {
      const call = s.test.FullDuplexCall(limit(ms));
      call.write(request);
      expectCode((await drain(call)).error, grpc.status.DEADLINE_EXCEEDED);
    }
  },
};

async function main() {
  const wanted = [];
  let target, ca, name;
  for (let args = process.argv.slice(2); args.length > 0; args.shift()) {
    if (args[0] === '--ca') ca = (args.shift(), args[0]);
    else if (args[0] === '--name') name = (args.shift(), args[0]);
    else if (target === undefined) target = args[0];
    else wanted.push(args[0]);
  }
  if (target === undefined) {
    console.error('usage: node cases.js TARGET [--ca FILE --name NAME] [CASE ...]');
    process.exit(2);
  }
  const credentials = ca ? grpc.credentials.createSsl(fs.readFileSync(ca)) : grpc.credentials.createInsecure();
  const options = ca && name ? {'grpc.ssl_target_name_override': name} : {};
  const algorithms = grpc.compressionAlgorithms;
  const stubs = {
    test: new api.TestService(target, credentials, options),
    gzip: new api.TestService(target, credentials, {...options, 'grpc.default_compression_algorithm': algorithms.gzip}),
    deflate: new api.TestService(target, credentials, {...options, 'grpc.default_compression_algorithm': algorithms.deflate}),
    none: new api.UnimplementedService(target, credentials, options),
  };
  let failed = 0;
  for (const [label, run] of Object.entries(cases)) {
    if (wanted.length > 0 && !wanted.includes(label)) continue;
    try {
      await run(stubs);
      console.log(`ok ${label}`);
    } catch (e) {
      failed++;
      console.log(`FAILED ${label}: ${e.message}`);
    }
  }
  for (const s of Object.values(stubs)) s.close();
  process.exit(failed === 0 ? 0 : 1);
}

main();
