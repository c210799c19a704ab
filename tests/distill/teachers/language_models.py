"""Tiny random language models with the architectures and the kinds of tokenizers of known rerankers."""

from __future__ import annotations

from pathlib import Path

from tests.corpus import ASPECTS, PLACES, QUERIES

WORDS = ["yes", "no", "Yes", "No", "0", "1", "true", "false"]
MORE = "Judge whether the Document meets the requirements Query Instruct passage contains an answer Relevant relevance"


def _texts() -> list[str]:
    texts = [template.format(*place) for place in PLACES for template in (*ASPECTS, *QUERIES)]
    return [*texts, *(" ".join(WORDS) + " " + "\n".join(WORDS) + " " + MORE for _ in range(20))]


def byte_tokenizer(special: list[str], **named):
    """Byte-level BPE, as that of Qwen."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=2048, **named)


def t5_tokenizer():
    """Unigram with a mark before each word, as that of T5."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        [*_texts(), *(f"▁{word}" for word in WORDS for _ in range(50))],
        trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>"),
    )
    tokenizer.add_special_tokens([AddedToken(f"<extra_id_{number}>", special=True) for number in range(12)])
    tokenizer.add_tokens([AddedToken(f"▁{word}", normalized=False) for word in ("true", "false")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=2048
    )


def _sizes(vocabulary: int) -> dict[str, int]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 2048,
    }


def _save(folder: Path, model, tokenizer) -> str:
    """Saves a model whose scores are far from each other: its last layer is scaled up."""
    import torch

    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_qwen(folder: Path, version: int) -> str:
    """Qwen2 or Qwen3 with the special tokens of its chats."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(version)
    tokenizer = byte_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n"
    )
    sizes = _sizes(len(tokenizer))
    if version == 2:
        del sizes["head_dim"]
        return _save(folder, Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=False)), tokenizer)
    return _save(folder, Qwen3ForCausalLM(Qwen3Config(**sizes, tie_word_embeddings=True)), tokenizer)


def save_gemma(folder: Path) -> str:
    """Gemma, whose tokenizer puts <bos> before every text."""
    import torch
    from tokenizers import processors
    from transformers import GemmaConfig, GemmaForCausalLM

    torch.manual_seed(5)
    tokenizer = byte_tokenizer(["<pad>", "<eos>", "<bos>"], eos_token="<eos>", pad_token="<pad>", bos_token="<bos>")
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", bos)]
    )
    config = GemmaConfig(
        **_sizes(len(tokenizer)), pad_token_id=tokenizer.pad_token_id, bos_token_id=bos, tie_word_embeddings=False
    )
    return _save(folder, GemmaForCausalLM(config), tokenizer)


def save_t5(folder: Path, tied: bool) -> str:
    """T5; `tied` as the first version, which monoT5 is made of, else as version 1.1, which RankT5 is made of."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(6)
    tokenizer = t5_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer), d_model=64, d_kv=32, d_ff=128, num_layers=2, num_heads=2,
        tie_word_embeddings=tied, feed_forward_proj="relu" if tied else "gated-gelu",
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():  # random T5 encoders say nearly the same of all texts
        model.shared.weight.mul_(5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_classifier(folder: Path, labels: int = 1) -> str:
    """Qwen3 with a classification head, as rerankers that were converted from their two tokens."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

    torch.manual_seed(7)
    save_qwen(folder, 3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = Qwen3Config(**_sizes(len(tokenizer)), num_labels=labels, pad_token_id=tokenizer.pad_token_id)
    Qwen3ForSequenceClassification(config).save_pretrained(folder)
    return str(folder)
