"""The report's numbers, counted from the files alone: no database, none of the workflow's code."""

import json
from pathlib import Path
from typing import Any


def count(directory: Path) -> dict[str, int]:
    def items(name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((directory / f"iso_{name}.json").read_text(encoding="utf-8"))[name]
        return found

    countries = {item["alpha_2"]: item for item in items("3166-1")}
    subdivisions = {item["code"]: item for item in items("3166-2")}
    currencies = {item["alpha_3"]: item for item in items("4217")}
    old = {item["alpha_3"]: item for item in items("639-2")}
    new = {item["alpha_3"]: item for item in items("639-3")}

    country_of = {code: code.split("-")[0] for code in subdivisions}
    parents = {code: item["parent"] for code, item in subdivisions.items() if "parent" in item}
    short = {code: parent for code, parent in parents.items() if "-" not in parent}
    full = parents | {code: f"{country_of[code]}-{parent}" for code, parent in short.items()}
    national = {code: item for code, item in currencies.items() if code[:2] in countries}
    both = old.keys() & new.keys()
    return {
        "countries": len(countries),
        "subdivisions": len(subdivisions),
        "currencies": len(currencies),
        "languages_639_2": len(old),
        "languages_639_3": len(new),
        "subdivisions_of_unknown_country": sum(country not in countries for country in country_of.values()),
        "subdivisions_of_unknown_parent": sum(parent not in subdivisions for parent in full.values()),
        "subdivisions_with_short_parent": len(short),
        "countries_without_subdivisions": len(countries.keys() - set(country_of.values())),
        "currencies_of_no_country": len(currencies) - len(national),
        "currencies_with_own_number": sum(
            item["numeric"] != countries[code[:2]]["numeric"] for code, item in national.items()
        ),
        "languages_not_in_639_3": len(old.keys() - new.keys()),
        "languages_with_other_two_letters": sum(old[code].get("alpha_2") != new[code].get("alpha_2") for code in both),
        "languages_with_other_name": sum(old[code]["name"] != new[code]["name"] for code in both),
    }
