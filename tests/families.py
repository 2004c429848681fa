"""Small random models of every family that is supported, laid out as the real ones are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordPiece
from tokenizers.processors import TemplateProcessing

LETTERS = "abcdefghijklmnopqrstuvwxyz.,0123456789"
WORDS = "the a man woman dog cat is eats runs sleeps in park house food".split()
PIECES = list(dict.fromkeys([*LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]))
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.3,  # large, so that whatever is wrong shows in the scores
}
LENGTH = 64
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = {piece: i for i, piece in enumerate([*SPECIAL, *PIECES])}
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
UNIGRAM = [
    *((token, 0.0) for token in ROBERTA), ("▁", -1.0), *((f"▁{word}", -2.0) for word in WORDS),
    *((letter, -5.0) for letter in LETTERS),
]  # fmt: skip
SIZE = {"vocab_size": len(VOCABULARY), "max_position_embeddings": LENGTH, "pad_token_id": 0, **SMALL}

Parts = tuple[Any, Any]  # a tokenizer and a configuration


def _bytes(special: list[str]) -> dict[str, int]:
    return {piece: i for i, piece in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}


def _generic(backend: Tokenizer, single: str, pair: str, **tokens: str) -> Any:
    """A tokenizer that has no class of its own, with its special tokens as a template."""
    named = [(token, backend.token_to_id(token)) for token in dict.fromkeys(tokens.values()) if token in single + pair]
    backend.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=named)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **tokens
    )


def _word_pieces() -> Any:
    """BERT's WordPiece in a tokenizer without a class of its own, which marks no segments."""
    backend = hf.BertTokenizer(vocab=VOCABULARY).backend_tokenizer
    assert isinstance(backend.model, WordPiece)
    return _generic(
        backend, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        unk_token="[UNK]", mask_token="[MASK]",
    )  # fmt: skip


def _byte_pairs(special: list[str], single: str, pair: str, side: str, **tokens: str) -> Any:
    """A decoder's tokenizer, of single bytes."""
    backend = Tokenizer(BPE(vocab=_bytes(special), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    tokenizer = _generic(backend, single, pair, **tokens)
    tokenizer.padding_side = side
    return tokenizer


def _of_unigrams(kind: str) -> Parts:
    tokenizer = hf.XLMRobertaTokenizer(vocab=UNIGRAM)
    more = {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH + 2, "pad_token_id": 1}
    return tokenizer, getattr(hf, kind)(**(SIZE | more), type_vocab_size=1)


def _decoder(kind: str, tokenizer: Any, **more: Any) -> Parts:
    sizes = SIZE | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "head_dim": 16}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    return tokenizer, getattr(hf, kind)(**(sizes | ids | more), num_key_value_heads=1)


def _distilbert() -> Parts:
    return hf.DistilBertTokenizer(vocab=VOCABULARY), hf.DistilBertConfig(
        vocab_size=len(VOCABULARY), max_position_embeddings=LENGTH, dim=32, n_layers=3, n_heads=2, hidden_dim=48,
        initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip


def _mpnet() -> Parts:
    pieces = {piece: i for i, piece in enumerate([*ROBERTA[:4], "[UNK]", "<mask>", *PIECES])}
    more = {"vocab_size": len(pieces), "max_position_embeddings": LENGTH + 2, "pad_token_id": 1}
    return hf.MPNetTokenizer(vocab=pieces), hf.MPNetConfig(**(SIZE | more))


def _roberta() -> Parts:
    pieces = _bytes(ROBERTA)
    more = {"vocab_size": len(pieces), "max_position_embeddings": LENGTH + 2, "pad_token_id": 1}
    return hf.RobertaTokenizer(vocab=pieces, merges=[]), hf.RobertaConfig(**(SIZE | more), type_vocab_size=1)


DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0}


def _deberta() -> Parts:
    tokenizer = hf.DebertaTokenizer(vocab=_bytes(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]), merges=[])
    return tokenizer, hf.DebertaConfig(**(SIZE | {"vocab_size": len(tokenizer)}), **DISENTANGLED)


def _deberta_v2() -> Parts:
    special = [("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[UNK]", 0.0)]
    tokenizer = hf.DebertaV2Tokenizer(vocab=[*special, *UNIGRAM[5:]])
    return tokenizer, hf.DebertaV2Config(**(SIZE | {"vocab_size": len(tokenizer)}), **DISENTANGLED)


def _modernbert() -> Parts:
    cls, sep = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]
    return _word_pieces(), hf.ModernBertConfig(
        **SIZE, cls_token_id=cls, sep_token_id=sep, bos_token_id=cls, eos_token_id=sep, local_attention=8,
        initializer_cutoff_factor=2.0,
    )  # fmt: skip


def _albert() -> Parts:
    special = [("<pad>", 0.0), ("<unk>", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[MASK]", 0.0)]
    tokenizer = hf.AlbertTokenizer(vocab=[*special, *UNIGRAM[5:]])
    return tokenizer, hf.AlbertConfig(**(SIZE | {"vocab_size": len(tokenizer)}), embedding_size=16)


def _t5() -> Parts:
    tokenizer = hf.T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *UNIGRAM[5:]], extra_ids=0)
    return tokenizer, hf.T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=48, num_layers=3, num_heads=2, initializer_factor=3.0,
    )  # fmt: skip


def _qwen3() -> Parts:
    tokenizer = _byte_pairs(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "$A <|endoftext|>", "$A $B <|endoftext|>", "left",
        pad_token="<|endoftext|>", eos_token="<|endoftext|>",
    )  # fmt: skip
    return _decoder("Qwen3Config", tokenizer)


def _gemma3() -> Parts:
    tokenizer = _byte_pairs(
        ["<pad>", "<eos>", "<bos>", "<unk>"], "<bos> $A <eos>", "<bos> $A <eos> $B <eos>", "right",
        pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
    )  # fmt: skip
    more = {"sliding_window": 8, "use_bidirectional_attention": True, "query_pre_attn_scalar": 16}
    parts = _decoder("Gemma3TextConfig", tokenizer, **more)
    tokenizer.backend_tokenizer.add_special_tokens(["<image_soft_token>"])  # which the text model has no embedding of
    return parts


def _mistral() -> Parts:
    tokenizer = _byte_pairs(
        ["<unk>", "<s>", "</s>"], "<s> $A </s>", "<s> $A </s> $B </s>", "left", pad_token="<unk>", eos_token="</s>",
        bos_token="<s>", unk_token="<unk>",
    )  # fmt: skip
    return _decoder("MistralConfig", tokenizer, sliding_window=8)


def _llama() -> Parts:
    tokenizer = _byte_pairs(
        ["<unk>", "<s>", "</s>", "<pad>"], "<s> $A", "<s> $A <s> $B", "right", pad_token="<pad>", eos_token="</s>",
        bos_token="<s>", unk_token="<unk>",
    )  # fmt: skip
    return _decoder("LlamaConfig", tokenizer)


def _eurobert() -> Parts:
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|mask|>", "<|pad|>"]
    tokenizer = _byte_pairs(
        special, "<|begin_of_text|> $A <|end_of_text|>", "<|begin_of_text|> $A <|end_of_text|> $B <|end_of_text|>",
        "right", pad_token="<|pad|>", eos_token="<|end_of_text|>", bos_token="<|begin_of_text|>", mask_token="<|mask|>",
    )  # fmt: skip
    return _decoder("EuroBertConfig", tokenizer)


PARTS: dict[str, Callable[[], Parts]] = {
    "bert": lambda: (hf.BertTokenizer(vocab=VOCABULARY), hf.BertConfig(**SIZE)),
    "roberta": _roberta,
    "xlm-roberta": lambda: _of_unigrams("XLMRobertaConfig"),
    "mpnet": _mpnet,
    "distilbert": _distilbert,
    "electra": lambda: (hf.ElectraTokenizer(vocab=VOCABULARY), hf.ElectraConfig(**SIZE, embedding_size=32)),
    "deberta": _deberta,
    "deberta-v2": _deberta_v2,
    "modernbert": _modernbert,
    "camembert": lambda: _of_unigrams("CamembertConfig"),
    "albert": _albert,
    "nomic_bert": lambda: (hf.BertTokenizer(vocab=VOCABULARY), hf.NomicBertConfig(**SIZE, head_dim=16)),
    "gte": lambda: _of_unigrams("GteConfig"),
    "jina_embeddings_v3": lambda: _of_unigrams("JinaEmbeddingsV3Config"),
    "eurobert": _eurobert,
    "t5": _t5,
    "qwen3": _qwen3,
    "gemma3_text": _gemma3,
    "mistral": _mistral,
    "llama": _llama,
}


def gpt2(folder: Path) -> Path:
    """A decoder with a table of positions, and layers that are no `nn.Linear`."""
    tokenizer = _byte_pairs(["<|endoftext|>"], "$A", "$A $B", "right", pad_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    config = hf.GPT2Config(vocab_size=len(tokenizer), n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2)
    hf.GPT2Model(config).save_pretrained(folder)
    return folder


DECODERS = ("qwen3", "mistral", "llama")  # which read from left to right
ENCODERS = [
    "bert",
    "roberta",
    "xlm-roberta",
    "mpnet",
    "distilbert",
    "electra",
    "deberta",
    "deberta-v2",
    "modernbert",
    "camembert",
]


def build(family: str, folder: Path) -> Path:
    """Save an untrained encoder of a family, and a tokenizer of that family, as a plain transformers folder."""
    tokenizer, config = PARTS[family]()
    tokenizer.model_max_length = LENGTH
    torch.manual_seed(0)
    kind = hf.T5EncoderModel if family == "t5" else None
    model = hf.AutoModel.from_config(config) if kind is None else kind(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# Folders of sentence-transformers: what may stand behind a backbone, and what its files may ask for.

PROMPTS = {"query": "the man: ", "document": "food: "}


def _folder(folder: Path, family: str, pooling: Any, *more: Any, **settings: Any) -> Path:
    """A family's model with a pooling and modules behind it, saved by sentence-transformers.

    Args:
        folder: to write to.
        family: a key of `PARTS`.
        pooling: a mode, or several.
        more: functions from the number of dimensions so far to a module.
        settings: of SentenceTransformer.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as st

    build(family, folder / "plain")
    modules: list[Any] = [st.Transformer(str(folder / "plain"), max_seq_length=LENGTH)]
    include_prompt = settings.pop("include_prompt", True)
    modules.append(st.Pooling(modules[0].get_embedding_dimension(), pooling, include_prompt=include_prompt))
    torch.manual_seed(1)
    for make in more:
        sizes = [module.get_embedding_dimension() for module in modules if hasattr(module, "get_embedding_dimension")]
        modules.append(make(sizes[-1]))
    SentenceTransformer(modules=modules, device="cpu", **settings).save_pretrained(
        str(folder / "model"), create_model_card=False
    )
    return folder / "model"


def _dense(out: int, activation: Any = None) -> Callable[[int], Any]:
    def make(size: int) -> Any:
        from sentence_transformers.sentence_transformer.modules import Dense

        dense = Dense(size, out, activation_function=activation or torch.nn.Tanh())
        torch.nn.init.normal_(dense.linear.weight, std=0.3)
        return dense

    return make


def _module(name: str) -> Callable[[int], Any]:
    def make(size: int) -> Any:
        from sentence_transformers.sentence_transformer import modules as st

        if name != "LayerNorm":
            return getattr(st, name)()
        norm = st.LayerNorm(size)
        torch.nn.init.normal_(norm.norm.weight)
        torch.nn.init.normal_(norm.norm.bias)
        return norm

    return make


def _old_layout(folder: Path) -> Path:
    """As folders of before 2021: the transformer in 0_Transformer/, poolings by old keys."""
    import json

    model = _folder(folder, "bert", "mean")
    (model / "0_Transformer").mkdir()
    for path in list(model.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(model / "0_Transformer" / path.name)
    modules = json.loads((model / "modules.json").read_text())
    for module, kind, path in zip(modules, ("Transformer", "Pooling"), ("0_Transformer", "1_Pooling"), strict=True):
        module |= {"path": path, "type": f"sentence_transformers.models.{kind}"}
    (model / "modules.json").write_text(json.dumps(modules))
    (model / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True})
    )
    return model


def _lower_case(folder: Path) -> Path:
    import json

    model = _folder(folder, "roberta", "mean")
    path = model / "sentence_bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": True}))
    return model


def _static(folder: Path) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    torch.manual_seed(0)
    tokenizer = hf.BertTokenizer(vocab=VOCABULARY)
    module = StaticEmbedding(tokenizer, embedding_weights=torch.randn(len(VOCABULARY), 32))
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "max pooling": lambda folder: _folder(folder, "bert", "max"),
    "weightedmean pooling": lambda folder: _folder(folder, "bert", "weightedmean"),
    "mean_sqrt_len_tokens pooling": lambda folder: _folder(folder, "bert", "mean_sqrt_len_tokens"),
    "lasttoken pooling": lambda folder: _folder(folder, "qwen3", "lasttoken"),
    "several poolings joined": lambda folder: _folder(folder, "bert", ("mean", "cls", "max")),
    "Dense": lambda folder: _folder(folder, "bert", "cls", _dense(24)),
    "LayerNorm": lambda folder: _folder(folder, "bert", "mean", _module("LayerNorm")),
    "Dropout": lambda folder: _folder(folder, "bert", "mean", _module("Dropout")),
    "Normalize": lambda folder: _folder(folder, "bert", "mean", _module("Normalize")),
    "Normalize before Dense": lambda folder: _folder(folder, "bert", "mean", _module("Normalize"), _dense(24)),
    "a default prompt": lambda folder: _folder(folder, "bert", "mean", prompts=PROMPTS, default_prompt_name="query"),
    "a prompt that is not pooled": lambda folder: _folder(
        folder, "roberta", "mean", include_prompt=False, prompts=PROMPTS, default_prompt_name="query"
    ),
    "truncate_dim": lambda folder: _folder(folder, "bert", "mean", _module("Normalize"), truncate_dim=20),
    "do_lower_case": _lower_case,
    "the layout of before 2021 (0_Transformer/)": _old_layout,
    "StaticEmbedding": _static,
    "t5 with Dense, as sentence-t5": lambda folder: _folder(
        folder, "t5", "mean", _dense(40, torch.nn.Identity()), _module("Normalize")
    ),
    "gemma3_text with two Dense and prompts, as EmbeddingGemma": lambda folder: _folder(
        folder, "gemma3_text", "mean", _dense(64, torch.nn.Identity()), _dense(32, torch.nn.Identity()),
        _module("Normalize"), prompts=PROMPTS, default_prompt_name="document",
    ),
    "mistral with lasttoken pooling, as E5-Mistral": lambda folder: _folder(
        folder, "mistral", "lasttoken", _module("Normalize"), prompts=PROMPTS
    ),
}  # fmt: skip


def pooling_for(name: str) -> dict[str, str]:
    """What a person has to say of a folder that says nothing."""
    return {} if name in FOLDERS else {"pooling": "lasttoken" if name in DECODERS else "mean"}
