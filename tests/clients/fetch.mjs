// Calls chat completions from Node on one connection: through fetch, or as HTTP/2 streams by prior knowledge, all at once.
import http2 from "node:http2";
import { parseArgs } from "node:util";

const { values: chosen } = parseArgs({
  options: {
    "base-url": { type: "string" },
    client: { type: "string", default: "fetch" },
    calls: { type: "string", default: "1" },
    stream: { type: "boolean", default: false },
    http2: { type: "boolean", default: false },
  },
});

function usageOf(told) {
  if (!told) return null;
  const cached = told.prompt_tokens_details?.cached_tokens ?? 0;
  const reasoning = told.completion_tokens_details?.reasoning_tokens ?? 0;
  const buckets = {
    input_uncached: told.prompt_tokens - cached,
    cache_read: cached,
    output_text: told.completion_tokens - reasoning,
    reasoning,
  };
  return Object.fromEntries(Object.entries(buckets).filter(([, tokens]) => tokens));
}

const PATH = "/v1/chat/completions";
const HEADERS = { "content-type": "application/json", authorization: "Bearer sk-test", "x-test-client": chosen.client };

function body(number) {
  return JSON.stringify({
    model: "gpt-4o-mini",
    messages: [{ role: "user", content: `Question ${number}: what is the answer?` }],
    stream: chosen.stream,
    ...(chosen.stream && { stream_options: { include_usage: true } }),
  });
}

async function byFetch(number) {
  const answer = await fetch(chosen["base-url"] + PATH, { method: "POST", headers: HEADERS, body: body(number) });
  say(answer.status, await answer.text());
}

function byStream(session, number) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ":method": "POST", ":path": PATH, ...HEADERS });
    let status, text = "";
    stream.setEncoding("utf8");
    stream.on("response", (headers) => (status = headers[":status"]));
    stream.on("data", (part) => (text += part));
    stream.on("end", () => resolve(say(status, text)));
    stream.on("error", reject);
    stream.end(body(number));
  });
}

function say(status, text) {
  const isData = (line) => line.startsWith("data: ") && !line.includes("[DONE]");
  const parts = chosen.stream ? text.split("\n").filter(isData).map((line) => line.slice(6)) : [text];
  const chunks = parts.map((part) => JSON.parse(part));
  const told = chunks.findLast((chunk) => chunk.usage)?.usage;
  const { id, model } = chunks[0];
  console.log(JSON.stringify({ client: chosen.client, status, stream: chosen.stream, id, model, usage: usageOf(told) }));
}

const numbers = [...Array(Number(chosen.calls)).keys()];
if (chosen.http2) {
  const session = http2.connect(chosen["base-url"]);
  await Promise.all(numbers.map((number) => byStream(session, number)));
  session.close();
} else {
  for (const number of numbers) await byFetch(number);
}
