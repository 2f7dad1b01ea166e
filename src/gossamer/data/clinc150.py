"""CLINC150: what does a user want of an assistant?"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from gossamer.data import Dataset
from gossamer.data.formats import Origin
from gossamer.data.tabular import indices
from gossamer.data.texts import Length, TextData, Texts, columns
from gossamer.errors import ExperimentError

ORIGIN = Origin(
    "clinc150",
    "github.com/clinc/oos-eval (data/data_full.json and domains.json, as JSON lines of text, intent and domain)",
    {
        "train.jsonl": "1acf1c1acff668f22312abec36631ca4c0593ea5b2127826bf015453cf3fc565",
        "test.jsonl": "33d5c47a144aeb7e46d6344547804a1c75720dee95918f5469f972b0e1a1d0f1",
        "oos_train.jsonl": "15b3c6f321a1711683930c59aacf5d2a5659f5c97a3f8f369f7a427cc80459b0",
        "oos_test.jsonl": "6af3f5227dff12aec71fe92f9760d56a65a6d21fefced33ff79e8f4de22b1e16",
    },
)


class CLINC150(TextData):
    """Requests to an assistant by intent, 150 classes in 10 domains, which are the groups; 15,000 + 4,500 items.

    The classes stand domain by domain, both in alphabetical order. An intent belongs to one domain, so a node for each
    domain is an extreme label skew.
    """

    source: ClassVar[str] = "Larson et al. 2019"

    kind: Literal["clinc150"] = "clinc150"
    length: Length = 32
    domains: tuple[str, ...] = Field(default=(), description="domains whose intents are used; default: all")
    out_of_scope: bool = Field(
        default=False, description="requests that are none of the 150 too, as class and group 'oos' (100 + 1,000)"
    )
    verify: bool = Field(default=True, description="check the SHA-256 of the files")

    def load(self, folder: Path | None) -> Dataset:
        (texts, intents, domains), test = (self._columns(folder, part) for part in ("train", "test"))
        group_names = sorted(set(domains))
        classes = [intent for _, intent in sorted(set(zip(domains, intents, strict=True)))]
        return self.classified(
            folder,
            "clinc150",
            Texts(texts, indices(intents, classes), indices(domains, group_names)),
            Texts(test[0], indices(test[1], classes), indices(test[2], group_names)),
            classes,
            group_names,
            licence="CC BY 3.0",
        )

    def _columns(self, folder: Path | None, part: str) -> list[list[str]]:
        """Texts, intents and domains of the items that are used."""
        file = ORIGIN.read(folder, f"{part}.jsonl", verify=self.verify)
        found = columns(file, "text", "intent", "domain")
        if self.domains:
            there = sorted(set(found[2]))
            for domain in self.domains:
                if domain not in there:
                    near = difflib.get_close_matches(domain, there, n=1)
                    hint = f"did you mean '{near[0]}'? " if near else ""
                    raise ExperimentError(f"data.domains = '{domain}': {hint}domains: {', '.join(there)}")
            kept = [row for row in zip(*found, strict=True) if row[2] in self.domains]
            found = [list(column) for column in zip(*kept, strict=True)]
        if self.out_of_scope:
            others = ORIGIN.read(folder, f"oos_{part}.jsonl", verify=self.verify)
            found = [a + b for a, b in zip(found, columns(others, "text", "intent", "domain"), strict=True)]
        return found
