"""STU language models inside the Hugging Face ecosystem. Importing this needs the extra ``transformers``.

Importing registers them: afterwards `AutoConfig`, `AutoModel`, `AutoModelForCausalLM` and `AutoModelForSequenceClassification`
know the model type "stu".
"""

from torchstu.extras import require

require("transformers", "transformers")

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: E402

from torchstu.integrations.transformers.cache import STUCache  # noqa: E402
from torchstu.integrations.transformers.configuration import STUConfig  # noqa: E402
from torchstu.integrations.transformers.flash_stu import from_flash_stu  # noqa: E402
from torchstu.integrations.transformers.modeling import (  # noqa: E402
    STUForCausalLM,
    STUForSequenceClassification,
    STUModel,
)

AutoConfig.register("stu", STUConfig)
AutoModel.register(STUConfig, STUModel)
AutoModelForCausalLM.register(STUConfig, STUForCausalLM)
AutoModelForSequenceClassification.register(STUConfig, STUForSequenceClassification)

__all__ = ["STUCache", "STUConfig", "STUForCausalLM", "STUForSequenceClassification", "STUModel", "from_flash_stu"]
