"""Tiny random students of each architecture, saved as the sentence-transformers folders that real ones come in."""

from __future__ import annotations

from pathlib import Path

from tests.models import _texts, wordpiece_tokenizer


def save_modernbert(folder: Path) -> str:
    """ModernBERT of three layers, one of them with global attention; CLS pooling, normalised."""
    import torch
    from transformers import ModernBertConfig, ModernBertModel

    torch.manual_seed(3)
    tokenizer = wordpiece_tokenizer()
    config = ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=128, local_attention=8, initializer_range=0.3, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id,
        cls_token_id=tokenizer.cls_token_id, sep_token_id=tokenizer.sep_token_id,
    )  # fmt: skip
    return _save(folder, ModernBertModel(config), tokenizer, "cls")


def save_roberta(folder: Path) -> str:
    """RoBERTa, whose positions begin behind that of padding; mean pooling, normalised."""
    import torch
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(5)
    tokenizer = wordpiece_tokenizer()
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=130, initializer_range=0.3, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return _save(folder, RobertaModel(config), tokenizer, "mean")


def save_qwen3(folder: Path) -> str:
    """A decoder like Qwen3-Embedding: end-of-text appended, padded on the left, last-token pooling, normalised."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    torch.manual_seed(4)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    end = "<|endoftext|>"
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        _texts(), trainers.BpeTrainer(vocab_size=600, special_tokens=[end], initial_alphabet=alphabet)
    )
    bpe.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, bpe.token_to_id(end))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=end, pad_token=end, padding_side="left")
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=128, dtype="float32",
        eos_token_id=bpe.token_to_id(end), pad_token_id=bpe.token_to_id(end),
    )  # fmt: skip
    return _save(folder, Qwen3Model(config), tokenizer, "lasttoken")


def _save(folder: Path, model, tokenizer, pooling: str) -> str:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    model.save_pretrained(folder / "transformer")
    tokenizer.save_pretrained(folder / "transformer")
    transformer = Transformer(str(folder / "transformer"), max_seq_length=128)
    modules = [transformer, Pooling(32, pooling_mode=pooling), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "student"))
    return str(folder / "student")
