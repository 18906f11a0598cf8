"""Words: tokens, GloVe files written here, the vocabulary's ids, and the counts of what is unknown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmda.vmr import (
    TextFeatures,
    VMRDataError,
    VMRQuery,
    Vocabulary,
    WordVectors,
    read_glove,
    tokenize,
    validate_queries,
)
from mmda.vmr.check import main

TEXTS = ["a person opens the door.", "the person is cooking", "a dog"]


def test_tokens() -> None:
    assert tokenize("  He's NOT going, is he? ") == ["he", "'s", "not", "going", "is", "he"]
    assert tokenize("They can't; won\u2019t!") == ["they", "ca", "n't", "wo", "n't"]
    assert tokenize("caf\u00e9 2x 3.5") == ["caf\u00e9", "2x", "3", "5"]
    assert tokenize(" .,! ") == []


class TestGloVe:
    def test_reads_only_what_is_needed(self, tmp_path: Path) -> None:
        file = tmp_path / "glove.txt"
        file.write_text("the 1 2\n. . . broken\ndog -0.5 1e-1\nnew york 5 6\ncat 7 8\n", encoding="utf-8")
        table = read_glove(file, {"dog", "the", "new york", "zebra"})
        assert table.words == ("the", "dog")
        np.testing.assert_allclose(table.encode("The dog, the zebra"), [[1, 2], [-0.5, 0.1], [1, 2]], rtol=1e-6)
        assert table.unknown("The dog, the zebra") == ["zebra"]
        assert table.encode("zebra").shape == (0, 2)

    def test_word2vec_header_is_no_word(self, tmp_path: Path) -> None:
        file = tmp_path / "vectors.txt"
        file.write_text("2 3\na 1 2 3\nb 4 5 6\n", encoding="utf-8")
        np.testing.assert_array_equal(read_glove(file, ["b"]).encode("b"), [[4, 5, 6]])

    def test_a_byte_order_mark_is_no_part_of_the_first_word(self, tmp_path: Path) -> None:
        (tmp_path / "glove.txt").write_text("\ufeffthe 1 2\ndog 3 4\n", encoding="utf-8")
        assert read_glove(tmp_path / "glove.txt", ["the", "dog"]).words == ("the", "dog")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("the 1 2\ndog 1 x\n", "glove.txt: `line 2` must hold a word and its numbers"),
            ("the 1 2\ndog 1 nan\n", "glove.txt: `dog` must have a finite vector"),
            ("the 1 2\n", "glove.txt: must have a vector for one of 1 words, got none"),
            ("\n", "glove.txt: `line 1` must hold a word and its numbers"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "glove.txt").write_text(text, encoding="utf-8")
        with pytest.raises(VMRDataError, match=message):
            read_glove(tmp_path / "glove.txt", ["dog"])

    def test_no_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(VMRDataError, match="nope: must exist as a file of word vectors, got no such file"):
            read_glove(tmp_path / "nope", ["dog"])
        with pytest.raises(VMRDataError, match="must exist as a file of word vectors, got a folder"):
            read_glove(tmp_path, ["dog"])
        row = {"qid": 1, "query": "a dog", "duration": 9, "vid": "v", "relevant_windows": [[0, 2]]}
        (tmp_path / "notes.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        assert main(["check", "--annotations", str(tmp_path / "notes.jsonl"), "--glove", str(tmp_path / "nope")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines == [f"error: {tmp_path / 'nope'}: must exist as a file of word vectors, got no such file"]

    def test_a_short_line_of_a_needed_word(self, tmp_path: Path) -> None:
        (tmp_path / "glove.txt").write_text("the 1 2 3\ndog 1 2\n", encoding="utf-8")
        with pytest.raises(VMRDataError, match="`line 2` must have 3 numbers like the first, got 2"):
            read_glove(tmp_path / "glove.txt", ["dog"])


class TestVocabulary:
    def test_ids_by_frequency_then_alphabet(self) -> None:
        vocabulary = Vocabulary.learn(TEXTS)
        assert vocabulary.words == ("a", "person", "the", "cooking", "dog", "door", "is", "opens")
        assert len(vocabulary) == 10
        assert vocabulary.encode("the dog barks") == [4, 6, 1]
        assert Vocabulary.learn(reversed(TEXTS)).words == vocabulary.words

    def test_limits(self) -> None:
        assert Vocabulary.learn(TEXTS, min_count=2).words == ("a", "person", "the")
        assert Vocabulary.learn(TEXTS, max_size=1).words == ("a",)
        with pytest.raises(ValueError, match="`texts` must hold a word 3 times, got none"):
            Vocabulary.learn(TEXTS, min_count=3)
        with pytest.raises(ValueError, match="every word once"):
            Vocabulary(["a", "a"])

    def test_vectors_are_unit_seeded_and_nearly_orthogonal(self) -> None:
        vocabulary = Vocabulary.learn(TEXTS)
        table = vocabulary.vectors(512, seed=3)
        rows = np.concatenate([table.encode(word) for word in vocabulary.words])
        gram = rows @ rows.T
        np.testing.assert_allclose(np.diag(gram), 1, rtol=1e-5)
        # a cosine of random directions has standard deviation 1/sqrt(512) = 0.044
        assert abs(gram - np.eye(len(gram))).max() < 5 * 0.045
        np.testing.assert_array_equal(vocabulary.vectors(512, seed=3).encode("dog"), table.encode("dog"))
        assert not np.array_equal(vocabulary.vectors(512, seed=4).encode("dog"), table.encode("dog"))


class TestTextFeatures:
    notes = validate_queries([VMRQuery(str(k), "v", text, 9.0) for k, text in enumerate([*TEXTS, "zebras zoom"])])

    def test_store(self) -> None:
        table = Vocabulary.learn(TEXTS[:2]).vectors(6)
        store = TextFeatures(self.notes, table)
        assert store["0"].shape == (5, 6)
        assert store["2"].shape == (1, 6)
        np.testing.assert_array_equal(store["1"][1:2], table.encode("person"))
        assert store.report.findings["unknown_words"] == ("dog", "zebras", "zoom")
        assert store.report.facts["words"] == 5 + 4 + 2 + 2
        assert store.report.facts["known words"] == 7
        with pytest.raises(VMRDataError, match="vocabulary: `3` must have a word with a vector, got 'zebras zoom'"):
            store["3"]
        with pytest.raises(VMRDataError, match="`x` must be one of its 4 queries"):
            store["x"]

    def test_table_must_fit(self) -> None:
        with pytest.raises(VMRDataError, match=r"one vector for each of 2 words, got shape \(3, 2\)"):
            WordVectors(["a", "b"], np.ones((3, 2), np.float32))
        with pytest.raises(VMRDataError, match="every word once, got 1 repeated"):
            WordVectors(["a", "a"], np.ones((2, 2), np.float32))


def test_unknown_words_of_a_sentence_are_named() -> None:
    vocabulary = Vocabulary.learn(["a dog runs"])
    assert vocabulary.unknown("A bird runs, a cat sleeps.") == ["bird", "cat", "sleeps"]
    assert vocabulary.unknown("a dog runs") == []
