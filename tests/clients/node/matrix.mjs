// One HTTP client of Node, named by the argument, in plain calls: every body of $BODIES once, in order. The rest comes
// from the environment: BASE, CLIENT, and Node's own NODE_EXTRA_CA_CERTS.

import fs from "node:fs";
import http2 from "node:http2";
import https from "node:https";
import path from "node:path";

const { BASE, BODIES, CLIENT } = process.env;
const HEADERS = {
  "content-type": "application/json",
  authorization: "Bearer sk-test",
  "x-api-key": "sk-ant-test",
  "x-test-client": CLIENT,
};
const PATHS = { chat: "/v1/chat/completions", messages: "/v1/messages" };

function requestsToMake() {
  const names = fs.readdirSync(BODIES).filter((name) => name.endsWith(".json")).sort();
  return names.map((name) => [PATHS[name.split("-")[0]], fs.readFileSync(path.join(BODIES, name))]);
}

function check(status) {
  if (status !== 200) throw new Error(`status ${status}`);
}

const clients = {
  async fetch() {
    for (const [target, body] of requestsToMake()) {
      const answer = await fetch(BASE + target, { method: "POST", headers: HEADERS, body });
      await answer.text();
      check(answer.status);
    }
  },
  async https() {
    const agent = new https.Agent({ keepAlive: true });
    for (const [target, body] of requestsToMake()) {
      await new Promise((resolve, reject) => {
        const request = https.request(BASE + target, { method: "POST", headers: HEADERS, agent }, (answer) => {
          answer.on("data", () => {});
          answer.on("error", reject);
          answer.on("end", () => resolve(answer.statusCode));
        });
        request.on("error", reject);
        request.end(body);
      }).then(check);
    }
    agent.destroy();
  },
  async http2() {
    const session = http2.connect(BASE);
    for (const [target, body] of requestsToMake()) {
      await new Promise((resolve, reject) => {
        const stream = session.request({ ":method": "POST", ":path": target, ...HEADERS });
        let status;
        stream.on("response", (headers) => { status = headers[":status"]; });
        stream.on("data", () => {});
        stream.on("error", reject);
        stream.on("end", () => resolve(status));
        stream.end(body);
      }).then(check);
    }
    session.close();
  },
};
await clients[process.argv[2]]();
