"""Calls chat completions through the `openai` package."""

import openai

import exchange

CHOSEN = exchange.options("gpt-4o-mini", __doc__)
SETTINGS = {
    "base_url": CHOSEN.base_url + "/v1",
    "api_key": "sk-test",
    "max_retries": 0,
    "timeout": 60,
    "default_headers": {"x-test-client": CHOSEN.client},
}
CLIENT = openai.OpenAI(**SETTINGS)


def request(number):
    arguments = {
        "model": CHOSEN.model,
        "messages": exchange.messages(number, CHOSEN.directive),
        "stream": CHOSEN.stream,
    }
    if CHOSEN.stream and not CHOSEN.no_include_usage:
        arguments["stream_options"] = {"include_usage": True}
    return arguments


class Reading:
    """What has been read of an answer."""

    def __init__(self):
        self.id = self.model = self.usage = None
        self.text, self.chunks = "", 0

    def add(self, chunk):
        """Takes a chunk of a stream; false when enough was read."""
        self.id, self.model = chunk.id, chunk.model
        self.usage = chunk.usage or self.usage
        delta = chunk.choices[0].delta if chunk.choices else None
        for call in (delta and delta.tool_calls) or []:
            self.text += call.function.arguments or ""
        if delta and delta.content:
            self.text += delta.content
            self.chunks += 1
        return CHOSEN.abandon_after is None or self.chunks < CHOSEN.abandon_after

    def take(self, answer):
        self.id, self.model, self.usage = answer.id, answer.model, answer.usage
        message = answer.choices[0].message
        self.text = message.content or message.tool_calls[0].function.arguments
        return self

    def say(self, **more):
        exchange.say(client=CHOSEN.client, id=self.id, model=self.model, stream=CHOSEN.stream,
                     usage=exchange.openai_usage(self.usage), words=len(self.text.split()), **more)


def failed(error, reading):
    """An error's line names what was read until then."""
    status = getattr(error, "status_code", None)
    reading.say(error=type(error).__name__, status=status)


def once(number):
    reading = Reading()
    try:
        answer = CLIENT.chat.completions.create(**request(number))
        if CHOSEN.stream:
            with answer:
                for chunk in answer:
                    if not reading.add(chunk):
                        break
        else:
            reading.take(answer)
    except Exception as error:  # any failure is a finding of its own, not the end of the run
        return failed(error, reading)
    reading.say()


async def once_async(client, number):
    reading = Reading()
    try:
        answer = await client.chat.completions.create(**request(number))
        if CHOSEN.stream:
            async with answer:
                async for chunk in answer:
                    if not reading.add(chunk):
                        break
        else:
            reading.take(answer)
    except Exception as error:
        return failed(error, reading)
    reading.say()


if CHOSEN.free:
    CLIENT.models.list()
exchange.run(CHOSEN, once, once_async, lambda: openai.AsyncOpenAI(**SETTINGS))
