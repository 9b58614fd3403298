"""The tokenizer of Fun-CosyVoice3: Qwen2's, and 280 tokens that upstream adds in a fixed order when it loads it
(docs/systems/cosyvoice3.md 2.1; cosyvoice/tokenizer/tokenizer.py, CosyVoice3Tokenizer).
"""

import json
from pathlib import Path

from voxport_exporters.checkpoints import bpe
from voxport_exporters.systems.cosyvoice3.config import QWEN

SOUNDS = """
<|im_start|> <|im_end|> <|endofprompt|> [breath] <strong> </strong> [noise] [laughter] [cough] [clucking] [accent]
[quick_breath] <laughter> </laughter> [hissing] [sigh] [vocalized-noise] [lipsmack] [mn] <|endofsystem|>
"""

# The phonemes of the CMU dictionary: vowels as they are and with their stress, in alphabetical order
VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
STRESSES = ("", "0", "1", "2")
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
PHONEMES = sorted([*CONSONANTS.split(), *(vowel + stress for vowel in VOWELS.split() for stress in STRESSES)])

# Initials and finals of pinyin, finals also with their tone
PINYIN = """
a ai an ang ao b c ch d e ei en eng f g h i ian in ing iu ià iàn iàng iào iá ián iáng iáo iè ié iòng ióng iù iú
iā iān iāng iāo iē iě iōng iū iǎ iǎn iǎng iǎo iǒng iǔ j k l m n o ong ou p q r s sh t u uang ue un uo uà uài uàn
uàng uá uái uán uáng uè ué uì uí uò uó uā uāi uān uāng uē uě uī uō uǎ uǎi uǎn uǎng uǐ uǒ vè w x y z zh à ài àn
àng ào á ái án áng áo è èi èn èng èr é éi én éng ér ì ìn ìng í ín íng ò òng òu ó óng óu ù ùn ú ún ā āi ān āng āo
ē ēi ēn ēng ě ěi ěn ěng ěr ī īn īng ō ōng ōu ū ūn ǎ ǎi ǎn ǎng ǎo ǐ ǐn ǐng ǒ ǒng ǒu ǔ ǔn ǘ ǚ ǜ
"""

ADDED = [*SOUNDS.split(), *(f"[{sound}]" for sound in (*PHONEMES, *PINYIN.split()))]


def tokenizer(root: Path, rows: int) -> tuple[bytes, tuple[Path, ...]]:
    """(contents of tokenizer.json, the files it comes from) of the checkpoint in `root`; `rows`: of its text embedding.

    FileNotFoundError or ValueError in one line: a file is missing, they make no tokenizer, or an id has no row.
    """
    contents, files = bpe.tokenizer(root / QWEN, ADDED)
    last = max(json.loads(contents)["model"]["vocab"].values())
    if last >= rows:
        raise ValueError(f"{files[0]}: ids up to {last}, but the text embedding has {rows} rows: not its vocabulary")
    return contents, files
