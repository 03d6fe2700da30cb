"""Calls chat completions through an HTTP library that knows nothing of models, on one connection."""

import argparse
import asyncio
import json

import exchange

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--base-url", required=True)
PARSER.add_argument("--client", default="plain-http")
PARSER.add_argument("--library", choices=["requests", "aiohttp"], required=True)
PARSER.add_argument("--calls", type=int, default=1)
PARSER.add_argument("--stream", action="store_true")
CHOSEN = PARSER.parse_args()
URL = CHOSEN.base_url + "/v1/chat/completions"
HEADERS = {"authorization": "Bearer sk-test", "x-test-client": CHOSEN.client}


def body(number):
    asked = {"model": "gpt-4o-mini", "messages": exchange.messages(number, "{}"), "stream": CHOSEN.stream}
    if CHOSEN.stream:
        asked["stream_options"] = {"include_usage": True}
    return asked


def say(status, text):
    if CHOSEN.stream:
        lines = [line[6:] for line in text.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]
        chunks = [json.loads(line) for line in lines]
    else:
        chunks = [json.loads(text)]
    usage = next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), None)
    exchange.say(client=CHOSEN.client, status=status, stream=CHOSEN.stream, id=chunks[0]["id"],
                 model=chunks[0]["model"], usage=exchange.openai_usage(usage))


def with_requests():
    import requests

    with requests.Session() as session:
        session.trust_env = False
        for number in range(CHOSEN.calls):
            with session.post(URL, json=body(number), headers=HEADERS, stream=CHOSEN.stream) as answer:
                text = b"".join(answer.iter_content(None)).decode() if CHOSEN.stream else answer.text
                say(answer.status_code, text)


async def with_aiohttp():
    import aiohttp

    async with aiohttp.ClientSession() as session:
        for number in range(CHOSEN.calls):
            async with session.post(URL, json=body(number), headers=HEADERS) as answer:
                say(answer.status, "".join([part.decode() async for part in answer.content.iter_any()]))


if CHOSEN.library == "requests":
    with_requests()
else:
    asyncio.run(with_aiohttp())
