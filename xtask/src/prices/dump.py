"""Prints the price catalogue of the installed genai-prices package as JSON.

Usage: python dump.py WHEEL. The package's own types do the reading, so that its defaults and its sorting apply; what
is printed is what Tollgate's `price` room reads, and nothing more.
"""

import datetime
import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path

from genai_prices import types
from genai_prices.data import providers
from genai_prices.data_units import unit_data

LEAVES = {
    types.ClauseStartsWith: "starts_with",
    types.ClauseEndsWith: "ends_with",
    types.ClauseContains: "contains",
    types.ClauseEquals: "equals",
    types.ClauseRegex: "regex",
}


def matcher(clause):
    if clause is None:
        return None
    if isinstance(clause, types.ClauseOr):
        return {"or": [matcher(part) for part in clause.or_]}
    if isinstance(clause, types.ClauseAnd):
        return {"and": [matcher(part) for part in clause.and_]}
    name = LEAVES[type(clause)]
    return {name: getattr(clause, name)}


def utc(time):
    if time.tzinfo is not None:
        day = datetime.date(1970, 1, 1)
        time = datetime.datetime.combine(day, time).astimezone(datetime.timezone.utc).time()
    return time.isoformat()


def constraint(value):
    if value is None:
        return None
    if isinstance(value, types.StartDateConstraint):
        return {"start_date": value.start_date.isoformat()}
    if isinstance(value, types.TimeOfDateConstraint):
        return {"start_time_utc": utc(value.start_time), "end_time_utc": utc(value.end_time)}
    raise TypeError(f"a constraint of unknown kind: {value!r}")


def price(value):
    if isinstance(value, types.TieredPrices):
        tiers = [{"start": tier.start, "price": format(tier.price, "f")} for tier in value.tiers]
        return {"base": format(value.base, "f"), "tiers": tiers}
    return format(value, "f")


def prices(model_price):
    keys = model_price.__dict__.items()
    return {key: price(value) for key, value in keys if value is not None and not key.startswith("_")}


def dated(item):
    return {"constraint": constraint(item.constraint), "prices": prices(item.prices)}


def model(info):
    listed = info.prices
    if isinstance(listed, types.ModelPrice):
        listed = [types.ConditionalPrice(prices=listed)]
    row = {"id": info.id, "match": matcher(info.match), "prices": [dated(item) for item in listed]}
    if info.price_variants:
        row["price_variants"] = [{"when": dict(item.when), **dated(item)} for item in info.price_variants]
    return row


def provider(info):
    row = {"id": info.id, "api_pattern": info.api_pattern, "models": [model(item) for item in info.models]}
    if info.provider_match is not None:
        row["provider_match"] = matcher(info.provider_match)
    if info.model_match is not None:
        row["model_match"] = matcher(info.model_match)
    if info.fallback_model_providers:
        row["fallback_model_providers"] = info.fallback_model_providers
    return row


def licence_text(package):
    for path in package.files or []:
        if path.name == "LICENSE":
            return path.read_text()
    raise FileNotFoundError("the package holds no LICENSE file")


def main():
    wheel = Path(sys.argv[1])
    package = importlib.metadata.distribution("genai-prices")
    dump = {
        "manifest": {
            "package": "genai-prices",
            "version": package.version,
            "licence": package.metadata["License-Expression"],
            "file": wheel.name,
            "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
            "fetched": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        },
        "licence_text": licence_text(package),
        "units": unit_data,
        "providers": [provider(item) for item in providers],
    }
    # Sorted, so that the same package gives the same bytes whoever reads this.
    json.dump(dump, sys.stdout, sort_keys=True)


main()
