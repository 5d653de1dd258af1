//! Chat templates that the reference converter embeds; `templates/README.md` says where they are from.

/// For RWKV's vocabularies.
pub const RWKV_WORLD: &str = include_str!("templates/rwkv-world.jinja");
/// For MiniMax-Text-01.
pub const MINIMAX_M1: &str = include_str!("templates/minimax-m1.jinja");
/// For Kimi K3.
pub const KIMI_K3: &str = include_str!("templates/kimi-k3.jinja");
/// For DeepSeek V4.
pub const DEEPSEEK_V4: &str = include_str!("templates/deepseek-v4.jinja");
/// For DeepSeek V4 Flash of July 31st.
pub const DEEPSEEK_V4_FLASH_0731: &str = include_str!("templates/deepseek-v4-flash-0731.jinja");
/// For Mistral's own tokenizers of version 11.
pub const MISTRAL_V11: &str = include_str!("templates/mistral-v11.jinja");
/// For Mistral's own tokenizers of version 13.
pub const MISTRAL_V13: &str = include_str!("templates/mistral-v13.jinja");
/// For Qwen3-ASR.
pub const QWEN3_ASR: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
