"""A tiny chat tokenizer and a tiny seeded Llama, built in a moment, for tests of rendering and training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN = (
    "{% if messages[0]['role'] == 'system' %}{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}{% else %}"
    "{{ '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{% if not (loop.first and message.role == 'system') %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for message in rest %}"
    "{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '<s>' + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + '</s>' }}{% endif %}{% endfor %}"
)
CORPUS = [
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "Think: count the files\nAct: bash\n```bash\nls /etc | wc -l\n```",
    "Output:\n42\nsystem user assistant\nHow many files are there? Act: answer(42)",
    "[INST] <<SYS>>\nrule\n<</SYS>>\n\nhello [/INST] hello there  the the",
]


def tokenizer(template: str = SMOLLM2) -> Any:
    """Byte-level for ChatML; with Llama's word sign (a space is `▁`, every text gets one in front) for the Llama-2 template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    llama = "[INST]" in template
    controls = ["<unk>", "<s>", "</s>"] if llama else ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    if llama:
        fast = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        fast.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        fast.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        controls += [f"<0x{byte:02X}>" for byte in range(256)]
        alphabet: list[str] = []
    else:
        fast = Tokenizer(models.BPE())
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        fast.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=600, special_tokens=controls, initial_alphabet=alphabet, show_progress=False),
    )
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in controls[:3]])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=controls[1],
        eos_token=controls[2],
        pad_token=controls[2],
        unk_token=controls[0],
    )
    wrapped.chat_template = template
    return wrapped


def save_model(folder: Path, template: str = SMOLLM2) -> Path:
    """A two-layer Llama of about 100,000 random but seeded weights and its tokenizer, as a model folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    chat = tokenizer(template)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(chat),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            eos_token_id=chat.eos_token_id,
            bos_token_id=chat.bos_token_id,
            pad_token_id=chat.pad_token_id,
            tie_word_embeddings=True,
            initializer_range=0.2,
        )
    )
    model.save_pretrained(folder)
    chat.save_pretrained(folder)
    return folder
