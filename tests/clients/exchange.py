"""What the client scripts share: their options, and one JSON line for every exchange as the client saw it."""

import argparse
import json
import sys
import threading

_LOCK = threading.Lock()


def options(model, description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--base-url", required=True, help="https://HOST:PORT and perhaps a path prefix, without /v1")
    parser.add_argument("--client", default="client", help="x-test-client header: who this is in the server's truth")
    parser.add_argument("--model", default=model)
    parser.add_argument("--mode", choices=["sync", "async", "threads", "gather"], default="sync",
                        help="calls one after the other, or all at once in threads or tasks")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--no-include-usage", action="store_true", help="a stream that does not ask for its usage")
    parser.add_argument("--calls", type=int, default=1)
    parser.add_argument("--directive", default="{}", help="what the answer shall be like, as JSON")
    parser.add_argument("--abandon-after", type=int, help="stop reading a stream after so many chunks of text")
    parser.add_argument("--free", action="store_true", help="also make requests that cost nothing")
    return parser.parse_args()


def messages(number, directive):
    """A prompt; with a directive the server follows it."""
    text = f"Question {number}: what is the answer?"
    directive = json.loads(directive)
    if directive:
        text += " " + json.dumps({"tollgate_test": directive})
    return [{"role": "user", "content": text}]


def say(**seen):
    with _LOCK:
        print(json.dumps(seen), flush=True)


def read_answer(reader):
    """Status and body of an answer with either framing."""
    status = int(reader.readline().split()[1])
    headers = {}
    while (line := reader.readline().strip()):
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    if "content-length" in headers:
        return status, reader.read(int(headers["content-length"]))
    body = b""
    while (size := int(reader.readline(), 16)):
        body += reader.read(size)
        reader.readline()
    reader.readline()
    return status, body


def run(chosen, once, once_async, new_async_client):
    """Makes the calls in the chosen mode."""
    import asyncio

    if chosen.mode == "sync":
        for number in range(chosen.calls):
            once(number)
    elif chosen.mode == "threads":
        start = threading.Barrier(chosen.calls)

        def work(number):
            start.wait()
            once(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(chosen.calls)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        async def all_calls():
            async with new_async_client() as client:
                if chosen.mode == "async":
                    for number in range(chosen.calls):
                        await once_async(client, number)
                else:
                    await asyncio.gather(*(once_async(client, number) for number in range(chosen.calls)))

        asyncio.run(all_calls())
    sys.stdout.flush()


def openai_usage(usage):
    """Disjoint buckets from the usage of a chat completion, as the SDK's object or as parsed JSON."""
    if usage is None:
        return None
    if not isinstance(usage, dict):
        usage = usage.model_dump()
    inputs = usage.get("prompt_tokens_details") or {}
    outputs = usage.get("completion_tokens_details") or {}
    cached, written = inputs.get("cached_tokens") or 0, inputs.get("cache_write_tokens") or 0
    reasoning = outputs.get("reasoning_tokens") or 0
    return without_zeros(
        input_uncached=usage["prompt_tokens"] - cached - written,
        cache_read=cached,
        cache_write=written,
        output_text=usage["completion_tokens"] - reasoning,
        reasoning=reasoning,
    )


def anthropic_usage(usage):
    """Disjoint buckets from the usage of a message."""
    if usage is None:
        return None
    if not isinstance(usage, dict):
        usage = usage.model_dump()
    writes = usage.get("cache_creation") or {}
    hour = writes.get("ephemeral_1h_input_tokens") or 0
    reasoning = (usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0
    return without_zeros(
        input_uncached=usage["input_tokens"],
        cache_read=usage.get("cache_read_input_tokens") or 0,
        cache_write_5m=(usage.get("cache_creation_input_tokens") or 0) - hour,
        cache_write_1h=hour,
        output_text=usage["output_tokens"] - reasoning,
        reasoning=reasoning,
    )


def without_zeros(**buckets):
    return {bucket: tokens for bucket, tokens in buckets.items() if tokens}
