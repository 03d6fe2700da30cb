"""One SDK of the matrix, named by the argument: two calls, or four where it has both a synchronous and an asynchronous form;
half of them streamed. BASE comes from the environment, and what each SDK reads there by itself (SSL_CERT_FILE, …)."""

import asyncio
import os
import sys

BASE = os.environ["BASE"]
MESSAGES = [{"role": "user", "content": "Say something."}]


def with_google_genai():
    from google import genai

    client = genai.Client(api_key="test", http_options={"base_url": BASE})
    client.models.generate_content(model="gemini-2.5-flash", contents="Say something.")
    for _ in client.models.generate_content_stream(model="gemini-2.5-flash-lite", contents="Say something."):
        pass

    async def later():
        await client.aio.models.generate_content(model="gemini-2.5-flash", contents="Say something.")
        async for _ in await client.aio.models.generate_content_stream(model="gemini-2.5-flash", contents="Hello"):
            pass

    asyncio.run(later())


def with_mistralai():
    try:
        from mistralai import Mistral
    except ImportError:
        from mistralai.client import Mistral

    client = Mistral(api_key="test", server_url=BASE)
    client.chat.complete(model="mistral-large-latest", messages=MESSAGES)
    for _ in client.chat.stream(model="mistral-large-latest", messages=MESSAGES):
        pass


def with_boto3():
    import boto3

    client = boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=BASE, aws_access_key_id="test",
                          aws_secret_access_key="test", verify=os.environ["CA"])
    messages = [{"role": "user", "content": [{"text": "Say something."}]}]
    client.converse(modelId="amazon.nova-lite-v1:0", messages=messages)
    for _ in client.converse_stream(modelId="amazon.nova-lite-v1:0", messages=messages)["stream"]:
        pass


def with_litellm():
    import litellm

    litellm.telemetry = False
    chat = {"model": "openai/gpt-4o", "api_base": BASE + "/v1", "api_key": "test", "messages": MESSAGES}
    claude = {"model": "anthropic/claude-sonnet-4-5", "api_base": BASE, "api_key": "test", "messages": MESSAGES}
    litellm.completion(**chat)
    for _ in litellm.completion(**claude, stream=True):
        pass

    async def later():
        await litellm.acompletion(**claude)
        async for _ in await litellm.acompletion(**chat, stream=True, stream_options={"include_usage": True}):
            pass

    asyncio.run(later())


CLIENTS = {
    "google-genai": with_google_genai,
    "mistralai": with_mistralai,
    "boto3": with_boto3,
    "litellm": with_litellm,
}
CLIENTS[sys.argv[1]]()
