"""One HTTP client of the matrix, named by the argument, in plain calls: every body of $BODIES once, in order.

Everything else comes from the environment: BASE (https://HOST:PORT), CA (a PEM file), CLIENT (the tag in the server's truth).
"""

import asyncio
import os
import pathlib
import ssl
import sys

BASE, CA = os.environ["BASE"], os.environ["CA"]
HEADERS = {"content-type": "application/json", "authorization": "Bearer sk-test", "x-api-key": "sk-ant-test",
           "x-test-client": os.environ["CLIENT"]}
PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}


def requests_to_make():
    for path in sorted(pathlib.Path(os.environ["BODIES"]).glob("*.json")):
        yield BASE + PATHS[path.stem.split("-")[0]], path.read_bytes()


def check(status, version, wanted):
    if status != 200 or (wanted and version != wanted):
        sys.exit(f"status {status} over {version}")


def with_pycurl():
    import pycurl

    if "GnuTLS" not in pycurl.version:
        sys.exit(f"not with GnuTLS: {pycurl.version}")
    curl = pycurl.Curl()
    for url, body in requests_to_make():
        for option, value in [(pycurl.URL, url), (pycurl.CAINFO, CA), (pycurl.NOPROXY, "*"), (pycurl.POSTFIELDS, body),
                              (pycurl.HTTPHEADER, [f"{name}: {text}" for name, text in HEADERS.items()]),
                              (pycurl.WRITEFUNCTION, lambda data: None)]:
            curl.setopt(option, value)
        curl.perform()
        check(curl.getinfo(pycurl.RESPONSE_CODE), None, None)


def with_requests():
    import requests

    with requests.Session() as session:
        session.trust_env = False
        for url, body in requests_to_make():
            with session.post(url, data=body, headers=HEADERS, verify=CA, stream=True) as answer:
                for _ in answer.iter_lines():
                    pass
                check(answer.status_code, None, None)


def httpx_settings(http2):
    context = ssl.create_default_context(cafile=CA)
    return {"verify": context, "http2": http2, "http1": not http2, "trust_env": False, "headers": HEADERS, "timeout": 30}


def with_httpx(http2):
    import httpx

    with httpx.Client(**httpx_settings(http2)) as client:
        for url, body in requests_to_make():
            with client.stream("POST", url, content=body) as answer:
                for _ in answer.iter_lines():
                    pass
                check(answer.status_code, answer.http_version, "HTTP/2" if http2 else "HTTP/1.1")


async def with_async_httpx(http2):
    import httpx

    async with httpx.AsyncClient(**httpx_settings(http2)) as client:
        async def once(url, body):
            async with client.stream("POST", url, content=body) as answer:
                async for _ in answer.aiter_lines():
                    pass
                check(answer.status_code, answer.http_version, "HTTP/2" if http2 else "HTTP/1.1")

        # At once: over HTTP/2 as streams of one connection.
        await asyncio.gather(*(once(url, body) for url, body in requests_to_make()))


async def with_aiohttp():
    import aiohttp

    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=CA))
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:
        for url, body in requests_to_make():
            async with session.post(url, data=body) as answer:
                async for _ in answer.content:
                    pass
                check(answer.status, None, None)


CLIENTS = {
    "pycurl": with_pycurl,
    "requests": with_requests,
    "httpx": lambda: with_httpx(http2=False),
    "httpx-h2": lambda: with_httpx(http2=True),
    "httpx-async": lambda: asyncio.run(with_async_httpx(http2=False)),
    "httpx-async-h2": lambda: asyncio.run(with_async_httpx(http2=True)),
    "aiohttp": lambda: asyncio.run(with_aiohttp()),
}
CLIENTS[sys.argv[1]]()
