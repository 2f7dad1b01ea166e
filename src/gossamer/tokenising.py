"""Tokenizers: texts as token ids, by the tokenizers library, whose JSON is the standard form of a tokenizer.

M texts, L tokens of an item. Where the same tokenizer is trained on the same texts, it is the same to the byte.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.errors import DataError, ExperimentError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Array = np.ndarray[Any, Any]

SPECIAL = ("<pad>", "<cls>", "<bos>", "<eos>")
"""Ids 0 to 3 of a trained tokenizer: padding, start of a text to be classified, start and end of any other."""
FEWEST = 256 + len(SPECIAL)
"""Size of the smallest vocabulary: every byte has a token, so that no text is unknown."""
PADDING = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>")
END = ("<eos>", "</s>", "<|end_of_text|>", "<|endoftext|>")
"""What other tokenizers call these."""
CHUNK = 1024
"""Texts that are encoded at a time."""
THREADS = "TOKENIZERS_PARALLELISM"


def trained(texts: Sequence[str], vocabulary: int, first: str = "<cls>") -> Tokenizer:
    """Byte-level BPE of at most `vocabulary` tokens, trained on texts; every text begins with the token `first`.

    Texts are put into Unicode's form NFC, and decoding gives them back exactly. Sennrich et al. 2016; bytes: Radford
    et al. 2019 (GPT-2).
    """
    library = _library()
    tokenizer: Tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.normalizer = library.normalizers.NFC()
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with _one_thread():
        tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, tokenizer.token_to_id(first))]
    )
    tokenizer.enable_padding(pad_id=0, pad_token=SPECIAL[0])
    return tokenizer


def load(source: str | Path) -> Tokenizer:
    """A tokenizer from its JSON (a str), or from a tokenizer.json or a folder that has one (a Path).

    A `tokenizer_config.json` beside the file names the padding token, where it does not say itself. Raises
    ExperimentError where there is no such file, DataError where it is damaged.
    """
    tokenizer: Tokenizer
    if isinstance(source, str):
        tokenizer = _library().Tokenizer.from_str(source)
        return tokenizer
    file = source / "tokenizer.json" if source.is_dir() else source
    if not file.is_file():
        raise ExperimentError(
            f"data.tokenizer = '{source}': there is no such file; name a tokenizer.json, or a folder that has one"
        )
    try:
        tokenizer = _library().Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library has no class of its own for it
        raise DataError(f"data.tokenizer: '{file}' is no tokenizer: {error}; get a good copy of it") from error
    padding = _named_padding(file.with_name("tokenizer_config.json"))
    if tokenizer.padding is None and padding and tokenizer.token_to_id(padding) is not None:
        tokenizer.enable_padding(pad_id=tokenizer.token_to_id(padding), pad_token=padding)
    return tokenizer


def _named_padding(config: Path) -> str:
    """The padding token of a tokenizer_config.json; empty where there is none."""
    if not config.is_file():
        return ""
    try:
        named = json.loads(config.read_text(encoding="utf-8")).get("pad_token") or ""
    except (ValueError, AttributeError) as error:
        raise DataError(f"data.tokenizer: '{config}' is damaged: {error}; get a good copy of it") from error
    return str(named["content"] if isinstance(named, dict) else named)


def encoded(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> Array:
    """Token ids [M, L] int64: each text between what the tokenizer puts around it, cut or padded at its end.

    Raises ExperimentError where the tokenizer has no padding token.
    """
    padding = padding_id(tokenizer)
    if padding is None:
        raise ExperimentError(
            f"data.tokenizer: it has no padding token ({', '.join(PADDING)}), which texts shorter than data.length = "
            f"{length} need; name one of its tokens as pad_token in a tokenizer_config.json beside it"
        )
    before, after = surroundings(tokenizer)
    room = length - len(before) - len(after)
    if room < 1:
        raise ExperimentError(
            f"data.length = {length}: the tokenizer puts {length - room} tokens around a text; use at least "
            f"{length - room + 1}"
        )
    ids_ML = np.full((len(texts), length), padding, np.int64)
    for row_L, ids in zip(ids_ML, token_ids(tokenizer, texts), strict=True):
        whole = [*before, *ids[:room], *after]
        row_L[: len(whole)] = whole
    return ids_ML


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """The token ids of each text alone, with nothing around them.

    What looks like a special token in a text is text.
    """
    plain = _plain(tokenizer)
    for start in range(0, len(texts), CHUNK):
        with _one_thread():
            batch = plain.encode_batch_fast(list(texts[start : start + CHUNK]), add_special_tokens=False)
        yield from (encoding.ids for encoding in batch)


def surroundings(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before and after a text."""
    found = _plain(tokenizer).encode("a")
    own = [place for place, special in enumerate(found.special_tokens_mask) if not special] or [len(found.ids)]
    return found.ids[: own[0]], found.ids[own[-1] + 1 :]


def padding_id(tokenizer: Tokenizer) -> int | None:
    """The id that stands for no token, or None."""
    return tokenizer.padding["pad_id"] if tokenizer.padding else _first(tokenizer, PADDING)


def end_id(tokenizer: Tokenizer) -> int | None:
    """The id of the token that ends a text, or None."""
    return _first(tokenizer, END)


def _first(tokenizer: Tokenizer, names: Sequence[str]) -> int | None:
    found = (tokenizer.token_to_id(name) for name in names)
    return next((number for number in found if number is not None), None)


def tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The tokens in the order of their ids; an id that is not used is called by its number."""
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    return tuple(by_id.get(number, f"<{number}>") for number in range(max(by_id) + 1))


def fingerprint(tokenizer: Tokenizer) -> str:
    """A hash of all that decides which ids a text gets (not of how long items are, and what fills them)."""
    table = json.loads(tokenizer.to_str())
    table = {key: value for key, value in table.items() if key not in ("padding", "truncation")}
    return hashlib.blake2b(json.dumps(table, sort_keys=True).encode(), digest_size=16).hexdigest()


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither cuts nor pads, and takes special tokens in a text for text."""
    copy = load(tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    copy.encode_special_tokens = True
    return copy


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within the block the library starts no threads, unless the user has said whether it may.

    Once it has used threads it complains in every process that is forked.
    """
    if THREADS in os.environ:
        yield
        return
    os.environ[THREADS] = "false"
    try:
        yield
    finally:
        os.environ.pop(THREADS, None)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ExperimentError('data of texts need the tokenizers library: pip install "gossamer[foundation]"') from None
    return tokenizers
