"""Prints litellm's price table as JSON in the form of the catalogue, without what the catalogue has itself.

Usage: python fallback.py LITELLM_WHEEL. The installed genai-prices package says which models the catalogue knows. The
wheel is read and never installed or run. Numbers are taken as the decimals that are written there, never as floats.
"""

import datetime
import decimal
import hashlib
import json
import re
import sys
import zipfile
from pathlib import Path

from genai_prices.data import providers
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.data_units import unit_data

TABLE = "litellm/model_prices_and_context_window_backup.json"
ENDPOINTS = "litellm/llms/openai_like/providers.json"

decimal.getcontext().prec = 100
decimal.getcontext().traps[decimal.Inexact] = True

# What litellm calls the catalogue's providers.
CATALOGUE_IDS = {
    "anthropic": "anthropic",
    "azure": "azure",
    "azure_ai": "azure",
    "azure_text": "azure",
    "baseten": "baseten",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "cerebras": "cerebras",
    "cloudflare": "cloudflare",
    "codestral": "mistral",
    "cohere": "cohere",
    "cohere_chat": "cohere",
    "databricks": "databricks",
    "deepseek": "deepseek",
    "elevenlabs": "elevenlabs",
    "fireworks_ai": "fireworks",
    "fireworks_ai-embedding-models": "fireworks",
    "gemini": "google",
    "groq": "groq",
    "meta": "meta",
    "minimax": "minimax",
    "mistral": "mistral",
    "moonshot": "moonshotai",
    "novita": "novita",
    "openai": "openai",
    "openrouter": "openrouter",
    "ovhcloud": "ovhcloud",
    "perplexity": "perplexity",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "voyage": "voyageai",
    "xai": "x-ai",
    "zai": "zai",
}

# Hosts of providers that the catalogue does not know, beside those that litellm lists in ENDPOINTS: from their API
# documentation.
HOSTS = {
    "ai21": ["api.ai21.com"],
    "dashscope": ["dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com", "dashscope-us.aliyuncs.com"],
    "deepgram": ["api.deepgram.com"],
    "deepinfra": ["api.deepinfra.com"],
    "friendliai": ["api.friendli.ai"],
    "hyperbolic": ["api.hyperbolic.xyz"],
    "inception": ["api.inceptionlabs.ai"],
    "jina_ai": ["api.jina.ai"],
    "lambda_ai": ["api.lambda.ai"],
    "meta_llama": ["api.llama.com"],
    "morph": ["api.morphllm.com"],
    "nebius": ["api.studio.nebius.ai", "api.studio.nebius.com", "api.tokenfactory.nebius.com"],
    "nscale": ["inference.api.nscale.com"],
    "sambanova": ["api.sambanova.ai"],
    "v0": ["api.v0.dev"],
    "vercel_ai_gateway": ["ai-gateway.vercel.sh"],
    "wandb": ["api.inference.wandb.ai"],
}

MILLION, THOUSAND = decimal.Decimal(10**6), decimal.Decimal(10**3)

# Field: price key, how many units a catalogue price is for, and, where the field means it only there, the modes.
TOKENS = {
    "input_cost_per_token": "input_mtok",
    "output_cost_per_token": "output_mtok",
    "cache_read_input_token_cost": "cache_read_mtok",
    "cache_creation_input_token_cost": "cache_write_mtok",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h_mtok",
    "input_cost_per_audio_token": "input_audio_mtok",
    "output_cost_per_audio_token": "output_audio_mtok",
    "cache_read_input_audio_token_cost": "cache_audio_read_mtok",
    "input_cost_per_image_token": "input_image_mtok",
    "output_cost_per_image_token": "output_image_mtok",
    "input_cost_per_video_token": "input_video_mtok",
    "output_cost_per_reasoning_token": "output_reasoning_mtok",
}
FIELDS = {field: (key, MILLION, None) for field, key in TOKENS.items()} | {
    "annotation_cost_per_page": ("input_annotated_document_kpages", THOUSAND, None),
    "file_search_cost_per_1k_calls": ("storage_searches_kcount", decimal.Decimal(1), None),
    "input_cost_per_audio_per_second": ("input_audio_hours", decimal.Decimal(3600), None),
    "input_cost_per_character": ("input_mchars", MILLION, None),
    "input_cost_per_query": ("rerank_searches_kcount", THOUSAND, ["rerank"]),
    "input_cost_per_request": ("requests_kcount", THOUSAND, None),
    "input_cost_per_second": ("input_audio_hours", decimal.Decimal(3600), ["audio_transcription"]),
    "input_cost_per_text_message": ("input_text_messages_kcount", THOUSAND, None),
    "ocr_cost_per_page": ("input_document_kpages", THOUSAND, None),
    "output_cost_per_image": ("image", decimal.Decimal(1), ["image_generation", "image_edit"]),
    "output_cost_per_second": ("output_audio_hours", decimal.Decimal(3600), ["audio_speech"]),
}
# The catalogue has no unit for pictures.
IMAGES = {"dimensions": {"family": "images"}, "per": 1, "price_key": "image"}

SERVICES = {
    "": None,
    "_batches": {"processing": "batch"},
    "_flex": {"service_tier": "flex"},
    "_priority": {"service_tier": "priority"},
}
SUFFIX = re.compile(r"(?P<base>.+?)(?:_above_(?P<start>\d+)k_tokens)?(?P<service>_batches|_flex|_priority)?")


def text(number):
    written = format(number, "f")
    written = written.rstrip("0").rstrip(".") if "." in written else written
    if len(written.partition(".")[2]) > 18:
        raise ValueError(f"{number} is finer than a price can be")
    return written


# Many rows give the same price twice, by the token and by what the tokens are of. Those are one price.
SAME_AS_TOKENS = {
    "image": ["output_mtok", "output_image_mtok"],
    "input_audio_hours": ["input_mtok", "input_audio_mtok"],
    "input_mchars": ["input_mtok"],
    "output_audio_hours": ["output_mtok", "output_audio_mtok"],
}


def read(row):
    """Prices by service, then by key, then by the size of the input where they begin."""
    prices = {}
    for field, value in row.items():
        parts = SUFFIX.fullmatch(field)
        if field == "search_context_cost_per_query":
            # What a search costs unless the request says otherwise.
            field, value = "web_searches", value.get("search_context_size_medium")
            known, start, service = ("web_searches_kcount", THOUSAND, None), 0, ""
        else:
            known, start, service = FIELDS.get(parts["base"]), int(parts["start"] or 0) * 1000, parts["service"] or ""
        if known is None or not isinstance(value, (int, decimal.Decimal)) or isinstance(value, bool):
            continue
        key, per, modes = known
        if value < 0 or (modes and row.get("mode") not in modes):
            continue
        prices.setdefault(service, {}).setdefault(key, {})[start] = decimal.Decimal(value) * per
    for special in prices.values():
        for key, tokens in SAME_AS_TOKENS.items():
            if any(special.get(token, {}).get(0) for token in tokens):
                special.pop(key, None)
    return prices


def written(prices):
    """As the catalogue has it; a key of which only larger inputs have a price is left out."""
    result = {}
    for key, tiers in sorted(prices.items()):
        base = tiers.get(0)
        if base is None:
            continue
        larger = [{"start": start, "price": text(price)} for start, price in sorted(tiers.items()) if start]
        result[key] = {"base": text(base), "tiers": larger} if larger else text(base)
    return result


def model_name(key, provider):
    """The model as a request names it, or None if the row is for a region or a commitment, which no request tells."""
    head, slash, rest = key.partition("/")
    is_prefix = head == provider or head in CATALOGUE_IDS or head == "vertex_ai"
    name = rest if slash and is_prefix else key
    if CATALOGUE_IDS.get(provider) in ("aws", "azure") and "/" in name:
        return None
    if name.startswith("ft:") or "-x-" in name or name.endswith("/*"):
        return None
    return name


def row_of(name, row):
    prices = read(row)
    standard = written(prices.get("", {}))
    # A row of zeros says that nobody knows, or that somebody else pays.
    if all(price == "0" for price in standard.values()):
        return None
    model = {"id": name, "match": {"equals": name.lower()}, "prices": [{"constraint": None, "prices": standard}]}
    variants = []
    for service, when in SERVICES.items():
        special = written(prices.get(service, {})) if when else {}
        if special:
            variants.append({"when": when, "constraint": None, "prices": special})
    if variants:
        model["price_variants"] = variants
    return model


def api_pattern(hosts):
    return "https://(?:" + "|".join(re.escape(host) for host in hosts) + ")(?:[:/]|$)"


def main():
    wheel = Path(sys.argv[1])
    with zipfile.ZipFile(wheel) as archive:
        table = json.loads(archive.read(TABLE), parse_float=decimal.Decimal)
        endpoints = json.loads(archive.read(ENDPOINTS))
        information = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        version = re.search(r"^Version: (.+)$", archive.read(information).decode(), re.MULTILINE)[1]
        licence = archive.read(information.replace("METADATA", "licenses/LICENSE")).decode()

    catalogue = DataSnapshot(providers=providers, from_auto_update=False)
    known = {provider.id: provider for provider in providers}
    hosts = {name: [item["base_url"].split("/")[2]] for name, item in endpoints.items()} | HOSTS
    found = {}
    for key, row in table.items():
        provider = row.get("litellm_provider") or ""
        if provider.startswith("vertex_ai"):
            identity = "google"
        else:
            identity = CATALOGUE_IDS.get(provider) or (provider if provider in hosts else None)
        name = identity and model_name(key, provider)
        if not name:
            continue
        if identity in known:
            try:
                catalogue.find_provider_model(name, known[identity], None, None)
                continue
            except LookupError:
                pass
        model = row_of(name, row)
        if model:
            found.setdefault(identity, {}).setdefault(model["match"]["equals"], model)

    dump = {
        "manifest": {
            "package": "litellm",
            "version": version,
            "licence": "MIT",
            "file": wheel.name,
            "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
            "fetched": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        },
        "licence_text": licence,
        "units": unit_data | {"images": IMAGES},
        "providers": [
            {
                "id": identity,
                "api_pattern": known[identity].api_pattern if identity in known else api_pattern(hosts[identity]),
                "models": [models[name] for name in sorted(models)],
            }
            for identity, models in sorted(found.items())
        ],
    }
    json.dump(dump, sys.stdout, sort_keys=True)


main()
