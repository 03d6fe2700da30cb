"""Calls messages through the `anthropic` package."""

import anthropic

import exchange

CHOSEN = exchange.options("claude-haiku-4-5", __doc__)
SETTINGS = {
    "base_url": CHOSEN.base_url,
    "api_key": "sk-ant-test",
    "max_retries": 0,
    "timeout": 60,
    "default_headers": {"x-test-client": CHOSEN.client},
}
CLIENT = anthropic.Anthropic(**SETTINGS)


def request(number):
    return {"model": CHOSEN.model, "max_tokens": 8192, "messages": exchange.messages(number, CHOSEN.directive)}


def say(message, **more):
    """The line of a message, as far as it was read."""
    words, usage = 0, None
    if message is not None:
        words = sum(len((block.text if block.type == "text" else str(block.input.get("query", ""))).split())
                    for block in message.content if block.type in ("text", "tool_use"))
        usage = exchange.anthropic_usage(message.usage)
    exchange.say(client=CHOSEN.client, id=message and message.id, model=message and message.model,
                 stream=CHOSEN.stream, usage=usage, words=words, **more)


def failed(error, message):
    say(message, error=type(error).__name__, status=getattr(error, "status_code", None))


def is_enough(chunks):
    return CHOSEN.abandon_after is not None and chunks >= CHOSEN.abandon_after


def once(number):
    message = None
    try:
        if CHOSEN.stream:
            with CLIENT.messages.stream(**request(number)) as stream:
                chunks = 0
                for event in stream:
                    message = stream.current_message_snapshot
                    chunks += event.type == "content_block_delta"
                    if is_enough(chunks):
                        break
        else:
            message = CLIENT.messages.create(**request(number))
    except Exception as error:  # any failure is a finding of its own, not the end of the run
        return failed(error, message)
    say(message)


async def once_async(client, number):
    message = None
    try:
        if CHOSEN.stream:
            async with client.messages.stream(**request(number)) as stream:
                chunks = 0
                async for event in stream:
                    message = stream.current_message_snapshot
                    chunks += event.type == "content_block_delta"
                    if is_enough(chunks):
                        break
        else:
            message = await client.messages.create(**request(number))
    except Exception as error:
        return failed(error, message)
    say(message)


if CHOSEN.free:
    CLIENT.messages.count_tokens(model=CHOSEN.model, messages=exchange.messages(0, "{}"))
exchange.run(CHOSEN, once, once_async, lambda: anthropic.AsyncAnthropic(**SETTINGS))
