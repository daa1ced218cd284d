"""The two tokenizers of a Flux folder, trained on the recipe's captions and ordinary English words.

CLIP's is byte-level BPE, so every text has tokens; T5's is a Unigram model. Both are small (about two thousand
pieces), since the starter's world is. They are saved by transformers and load as any Flux model's tokenizers do.

    python make_tokenizers.py            # writes tokenizer/ and tokenizer_2/ into the work folder
"""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import sentencepiece
from captions import WORDS, caption
from common import parser_with_work, prepare
from split import training_scene
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

CLIP_LENGTH = 77
T5_LENGTH = 512
CLIP_PATTERN = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def corpus(count: int = 20_000, seed: int = 5) -> list[str]:
    """Captions and plain words. Words are repeated, so that common English gets pieces of its own."""
    rng = random.Random(seed)
    lines = []
    for i in range(count):
        lines.append(caption(training_scene(rng), rng))
        if i % 2 == 0:
            lines.append(" ".join(rng.choice(WORDS) for _ in range(8)))
        if i % 10 == 0:
            lines.append(" ".join(rng.choice(WORDS).capitalize() for _ in range(4)))
    return lines


def train_clip(lines: list[str], size: int = 2048) -> CLIPTokenizer:
    """A CLIP tokenizer: lower-cased, byte-level BPE with `</w>` at the end of words."""
    tokenizer = Tokenizer(
        models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix="", unk_token="<|endoftext|>")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2 - 256, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    state = tokenizer.model.__getstate__()
    data = json.loads(state.decode("utf-8") if isinstance(state, bytes) else state)
    merges = [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in data["merges"]]
    # CLIP's order of ids: bytes, bytes that end a word, merged pieces, the two special tokens.
    pieces = alphabet + [a + "</w>" for a in alphabet]
    known = set(pieces)
    for left, right in merges:
        if left + right not in known:
            known.add(left + right)
            pieces.append(left + right)
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)


def train_t5(lines: list[str], size: int = 1800) -> T5Tokenizer:
    """A T5 tokenizer: Unigram over words marked with a leading bar; <pad>, </s>, <unk> have the ids 0, 1, 2.

    sentencepiece trains it, as it trained T5's own; the `tokenizers` trainer splits the commonest short words.
    """
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        vocab_size=size,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        num_threads=1,
        required_chars="".join(chr(c) for c in range(33, 127)),
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    vocabulary = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=T5_LENGTH)


def load(work: Path) -> tuple[CLIPTokenizer, T5Tokenizer]:
    """Both tokenizers from the work folder, trained first if they are not there."""
    clip_folder, t5_folder = work / "tokenizer", work / "tokenizer_2"
    if not (clip_folder / "tokenizer_config.json").exists() or not (t5_folder / "tokenizer_config.json").exists():
        lines = corpus()
        train_clip(lines).save_pretrained(clip_folder)
        train_t5(lines).save_pretrained(t5_folder)
    return CLIPTokenizer.from_pretrained(clip_folder), T5Tokenizer.from_pretrained(t5_folder)


def main() -> None:
    args = parser_with_work(__doc__).parse_args()
    clip, t5 = load(prepare(args))
    text = "a red house by the sea at sunset, with birds, ink style, zyxw Ünï"
    print(len(clip), clip.tokenize(text))
    print(len(t5), t5.tokenize(text))


if __name__ == "__main__":
    main()
