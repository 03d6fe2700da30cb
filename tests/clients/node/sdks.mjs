// One SDK of the matrix under $NPM, named by the argument: a call whole, and one streamed. BASE comes from the environment.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import fs from "node:fs";

const { BASE, CA, NPM } = process.env;
const installed = createRequire(`${NPM}/package.json`);
const load = async (name) => import(pathToFileURL(installed.resolve(name)));
const messages = [{ role: "user", content: "Say something." }];
const body = JSON.stringify({ model: "gpt-4o", messages });

const clients = {
  async openai() {
    const { default: OpenAI } = await load("openai");
    const client = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: "test" });
    await client.chat.completions.create({ model: "gpt-4o", messages });
    const options = { model: "gpt-4o", messages, stream: true, stream_options: { include_usage: true } };
    for await (const _ of await client.chat.completions.create(options));
    await client.responses.create({ model: "gpt-4o", input: "Say something." });
    for await (const _ of await client.responses.create({ model: "gpt-4o", input: "Say something.", stream: true }));
  },
  async anthropic() {
    const { default: Anthropic } = await load("@anthropic-ai/sdk");
    const client = new Anthropic({ baseURL: BASE, apiKey: "test" });
    const request = { model: "claude-sonnet-4-5", max_tokens: 8192, messages };
    await client.messages.create(request);
    await client.messages.stream(request).finalMessage();
  },
  async "undici-h2"() {
    const { Agent, fetch } = (await load("undici")).default;
    const dispatcher = new Agent({ allowH2: true, connect: { ca: fs.readFileSync(CA) } });
    for (let call = 0; call < 2; call++) {
      const headers = { "content-type": "application/json" };
      const answer = await fetch(`${BASE}/v1/chat/completions`, { method: "POST", headers, body, dispatcher });
      await answer.text();
      if (answer.status !== 200) throw new Error(`status ${answer.status}`);
    }
    await dispatcher.close();
  },
  async fetch() {
    for (let call = 0; call < 2; call++) {
      const headers = { "content-type": "application/json" };
      const answer = await fetch(`${BASE}/v1/chat/completions`, { method: "POST", headers, body });
      await answer.text();
      if (answer.status !== 200) throw new Error(`status ${answer.status}`);
    }
  },
};
await clients[process.argv[2]]();
