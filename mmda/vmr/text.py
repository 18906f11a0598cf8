"""Word features of queries: tokens, word vectors from GloVe text files, and a vocabulary learned from the source.

Precomputed query features are opened with ``open_features(path, kind="query")`` instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmda.vmr.annotations import Annotations
from mmda.vmr.features import Array
from mmda.vmr.reports import Findings, Report, VMRDataError

_TOKEN = re.compile(r"\w+(?=n't)|n't|'\w+|\w+")


def tokenize(text: str) -> list[str]:
    """Lower-case words of a sentence without punctuation, with contractions split as in GloVe.

    Args:
        text: the sentence.

    Returns:
        The words in order; none for a sentence without letters and digits.

    Example:
        >>> tokenize("The person doesn't open Tom's door.")
        ['the', 'person', 'does', "n't", 'open', 'tom', "'s", 'door']
    """
    return _TOKEN.findall(text.lower().replace("\u2019", "'"))


class WordVectors:
    """A table of word vectors.

    Args:
        words: the words, without repetition.
        vectors: one row per word.
        source: origin of the vectors, for messages.

    Shape:
        vectors ``(len(words), d_q)``.

    Raises:
        VMRDataError: if a word is repeated, the table is empty or of another length, or a number is not finite.

    Example:
        >>> table = WordVectors(["a", "dog"], np.eye(2, dtype=np.float32))
        >>> table.encode("A dog barks").tolist(), table.unknown("A dog barks")
        ([[1.0, 0.0], [0.0, 1.0]], ['barks'])
    """

    def __init__(self, words: Iterable[str], vectors: NDArray[np.float32], *, source: str | Path = "memory") -> None:
        self.words = tuple(words)
        self.source = str(source)
        self._row = {word: row for row, word in enumerate(self.words)}
        self._vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if not self.words or self._vectors.ndim != 2 or len(self._vectors) != len(self.words):
            rule = f"have one vector for each of {len(self.words)} words"
            raise VMRDataError(source, None, rule, f"shape {self._vectors.shape}")
        if len(self._row) != len(self.words):
            raise VMRDataError(source, None, "have every word once", f"{len(self.words) - len(self._row)} repeated")
        if not np.isfinite(self._vectors).all():
            bad = self.words[int(np.flatnonzero(~np.isfinite(self._vectors).all(1))[0])]
            raise VMRDataError(source, bad, "have a finite vector", "NaN or infinity")

    @property
    def width(self) -> int:
        """Number of features of a word."""
        return int(self._vectors.shape[1])

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._row

    def encode(self, text: str) -> Array:
        """Vectors of the known words of a sentence, ``(l, d_q)``; no rows if none is known."""
        rows = [self._row[word] for word in tokenize(text) if word in self._row]
        return self._vectors[np.asarray(rows, dtype=np.int64)]

    def unknown(self, text: str) -> list[str]:
        """Words of a sentence that have no vector."""
        return [word for word in tokenize(text) if word not in self._row]


def read_glove(path: str | Path, words: Collection[str]) -> WordVectors:
    """Read the vectors of ``words`` from a GloVe text file.

    Args:
        path: a text file with a word and its numbers per line, separated by blanks.
        words: the words to read, as returned by :func:`tokenize`.

    Returns:
        Vectors of the words found, in the order of the file.

    Raises:
        VMRDataError: if the file does not exist, has none of the words, or has a line that is not a word and as many
            numbers as the first line.
        OSError: if the file cannot be read.

    Notes:
        One pass, with memory only for the requested words; other lines are not parsed. Words that contain blanks, as in
        some releases, are parsed from the right.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "glove.txt")
        ...     _ = file.write_text("cat 0.5 1.0", encoding="utf-8")
        ...     read_glove(file, ["cat", "dog"]).width
        2

    References:
        Pennington, Socher, Manning: "GloVe: Global Vectors for Word Representation", EMNLP 2014.
    """
    wanted = set(words)
    found: list[str] = []
    rows: list[NDArray[np.float32]] = []
    width = 0
    if not Path(path).is_file():
        came = "a folder" if Path(path).is_dir() else "a pipe or device" if Path(path).exists() else "no such file"
        raise VMRDataError(path, None, "exist as a file of word vectors", came)
    with Path(path).open(encoding="utf-8-sig", errors="replace", newline="\n") as stream:
        for number, line in enumerate(stream, start=1):
            if number == 1:
                width = len(line.split()) - 1
                if width == 1 and line.strip().replace(" ", "").isdigit():  # word2vec header: number of words and width
                    width = int(line.split()[1])
                    continue
                if width < 1:
                    raise VMRDataError(path, "line 1", "hold a word and its numbers", repr(line[:40]))
            if line.partition(" ")[0] not in wanted:
                continue
            word, *numbers = line.rstrip().rsplit(" ", width)
            if word not in wanted:
                continue
            try:
                row = np.asarray([float(value) for value in numbers], dtype=np.float32)
            except ValueError:
                raise VMRDataError(path, f"line {number}", "hold a word and its numbers", repr(line[:40])) from None
            if len(row) != width:
                raise VMRDataError(path, f"line {number}", f"have {width} numbers like the first", len(row))
            wanted.discard(word)
            found.append(word)
            rows.append(row)
    if not found:
        raise VMRDataError(path, None, f"have a vector for one of {len(words)} words", "none")
    return WordVectors(found, np.stack(rows), source=path)


class Vocabulary:
    """Words with integer ids; 0 is padding, 1 any unknown word.

    Args:
        words: the words in order of their ids, starting at 2.

    Raises:
        ValueError: if a word is repeated.

    Example:
        >>> vocabulary = Vocabulary.learn(["a dog runs", "a cat runs"])
        >>> vocabulary.words, vocabulary.encode("a bird runs")
        (('a', 'runs', 'cat', 'dog'), [2, 1, 3])
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        self._id = {word: k for k, word in enumerate(self.words, start=2)}
        if len(self._id) != len(self.words):
            raise ValueError("Vocabulary: `words` must hold every word once, got a word twice")

    @classmethod
    def learn(cls, texts: Iterable[str], *, min_count: int = 1, max_size: int | None = None) -> Vocabulary:
        """The words of some texts (the source's), most frequent first, ties by alphabet.

        Args:
            texts: sentences.
            min_count: rarer words are unknown.
            max_size: at most this many words.

        Raises:
            ValueError: if no word is frequent enough.
        """
        counts = Counter(word for text in texts for word in tokenize(text))
        ordered = sorted((word for word in counts if counts[word] >= min_count), key=lambda w: (-counts[w], w))
        if not ordered[:max_size]:
            raise ValueError(f"Vocabulary.learn: `texts` must hold a word {min_count} times, got none")
        return cls(ordered[:max_size])

    def __len__(self) -> int:
        """Number of ids, padding and unknown included."""
        return len(self.words) + 2

    def __contains__(self, word: object) -> bool:
        return word in self._id

    def encode(self, text: str) -> list[int]:
        """One id for every word of a sentence."""
        return [self._id.get(word, 1) for word in tokenize(text)]

    def unknown(self, text: str) -> list[str]:
        """Words of a sentence that are not in the vocabulary."""
        return [word for word in tokenize(text) if word not in self._id]

    def vectors(self, width: int, *, seed: int = 0) -> WordVectors:
        """Fixed random unit vectors, nearly orthogonal, from which a linear layer can learn an embedding.

        Args:
            width: number of features of a word.
            seed: seed of the draw; a word's vector depends on its position in the vocabulary.
        """
        drawn = np.random.default_rng(seed).standard_normal((len(self.words), width)).astype(np.float32)
        return WordVectors(self.words, drawn / np.linalg.norm(drawn, axis=1, keepdims=True), source="vocabulary")


class TextFeatures:
    """Query features computed from the sentences of annotations: a store ``qid -> (words, d_q)``.

    Args:
        annotations: the queries.
        vectors: the vectors of their words. Unknown words are skipped; :attr:`report` counts them.

    Example:
        >>> from mmda.vmr.annotations import VMRQuery, validate_queries
        >>> notes = validate_queries([VMRQuery("q", "v", "a dog barks", 9.0)])
        >>> store = TextFeatures(notes, WordVectors(["a", "dog"], np.eye(2, dtype=np.float32)))
        >>> store["q"].shape, store.report.count("unknown_words")
        ((2, 2), 1)
    """

    layout = "word vectors"
    clip_seconds: float | None = None

    def __init__(self, annotations: Annotations, vectors: WordVectors) -> None:
        self.source = vectors.source
        self._vectors = vectors
        self._text = {query.qid: query.text for query in annotations}
        findings, words, known = Findings(), 0, set[str]()
        for text in self._text.values():
            tokens = tokenize(text)
            words += len(tokens)
            known.update(token for token in tokens if token in vectors)
            findings.extend("unknown_words", (token for token in tokens if token not in vectors))
        facts = {"words": words, "known words": len(known), "width": vectors.width}
        self.report: Report = findings.report(vectors.source, facts)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._text)

    @property
    def width(self) -> int:
        return self._vectors.width

    def __len__(self) -> int:
        return len(self._text)

    def __contains__(self, id: object) -> bool:
        return id in self._text

    def __getitem__(self, id: str) -> Array:
        if id not in self._text:
            raise VMRDataError(self.source, id, f"be one of its {len(self)} queries", "no such query")
        array = self._vectors.encode(self._text[id])
        if not len(array):
            raise VMRDataError(self.source, id, "have a word with a vector", repr(self._text[id]))
        return array
