"""One spelling for letters that people write in several ways; phrases and replies both go through it."""

import unicodedata

# Traditional characters and their simplified forms, as far as the phrases need them. Japanese has some of them;
# its phrases change alike.
_CHARACTERS = """
無无 會会 沒没 辦办 幫帮 協协 滿满 與与 參参 這这 樣样 討讨 論论 寫写 給给 說说 釋释 請请
對对 們们 為为 過过 驟骤 種种 絕绝 違违 範范 圍围 險险 權权 業业 專专 熱热 線线 諮咨 詢询
報报 護护 讓让 還还 從从 發发 應应 創创 編编 譯译 續续 執执 處处 話话 題题 當当 個个 內内
則则 備备 實实 條条 興兴 間间 問问"""
# Marks that are letters rather than accents: without them か is が, and two Hindi consonants fall apart.
_KEPT_MARKS = frozenset("\u3099\u309a\u094d")
_SPELLINGS = str.maketrans({pair[0]: pair[1] for pair in _CHARACTERS.split()}) | str.maketrans(
    {
        "ß": "ss",
        "\u0649": "\u064a",  # Arabic: alef maqsura for yeh at a word's end
        "\u0640": None,  # Arabic: tatweel only stretches a word
        "\u0901": "\u0902",  # Hindi: candrabindu and anusvara, as in हूँ and हूं
    }
)


def plain_letters(text: str) -> str:
    """Text without accents: é is e, й is и; characters of full width become plain ones."""
    text = unicodedata.normalize("NFKD", text)
    text = "".join(char for char in text if char in _KEPT_MARKS or not unicodedata.combining(char))
    return unicodedata.normalize("NFC", text.translate(_SPELLINGS))
