import dataclasses, datetime, decimal, hashlib, json, sys
from importlib.metadata import version
from genai_prices import data, types
from genai_prices.units import _get_registry

CLAUSES = {
    "ClauseStartsWith": "starts_with", "ClauseEndsWith": "ends_with", "ClauseContains": "contains",
    "ClauseRegex": "regex", "ClauseEquals": "equals", "ClauseOr": "or_", "ClauseAnd": "and_",
}


def matcher(clause):
    if clause is None:
        return None
    field = CLAUSES[type(clause).__name__]
    value = getattr(clause, field)
    if isinstance(value, list):
        value = [matcher(inner) for inner in value]
    return {field.rstrip("_"): value}


def number(value):
    return format(value, "f")


def rate(value):
    if isinstance(value, types.TieredPrices):
        return {"base": number(value.base), "tiers": [{"start": t.start, "price": number(t.price)} for t in value.tiers]}
    return number(value)


def prices(model_price):
    return {k: rate(v) for k, v in sorted(vars(model_price).items()) if v is not None and not k.startswith("_")}


def constraint(value):
    if value is None:
        return None
    if isinstance(value, types.StartDateConstraint):
        return {"start_date": value.start_date.isoformat()}
    utc = lambda t: (datetime.datetime.combine(datetime.date(2000, 1, 2), t).astimezone(datetime.timezone.utc) if t.tzinfo
                     else datetime.datetime.combine(datetime.date(2000, 1, 2), t)).time().replace(tzinfo=None).isoformat()
    return {"start_time_utc": utc(value.start_time), "end_time_utc": utc(value.end_time)}


def model(m):
    listed = m.prices if isinstance(m.prices, list) else [types.ConditionalPrice(prices=m.prices)]
    out = {"id": m.id, "match": matcher(m.match),
           "prices": [{"constraint": constraint(c.constraint), "prices": prices(c.prices)} for c in listed]}
    if m.price_variants:
        out["price_variants"] = [{"when": dict(v.when), "constraint": constraint(v.constraint), "prices": prices(v.prices)}
                                 for v in m.price_variants]
    return out


def provider(p):
    return {"id": p.id, "api_pattern": p.api_pattern, "model_match": matcher(p.model_match),
            "fallback_model_providers": p.fallback_model_providers or [], "models": [model(m) for m in p.models]}


wheel = sys.argv[1]
print(json.dumps({
    "source": {"package": "genai-prices", "version": version("genai-prices"), "licence": "MIT",
               "sha256": hashlib.sha256(open(wheel, "rb").read()).hexdigest()},
    "units": {k: {"per": u.per, "price_key": u.price_key, "dimensions": dict(u.dimensions)} for k, u in _get_registry().units.items()},
    "providers": [provider(p) for p in data.providers],
}))
