"""The shapes of the catalogue: what an entry of its YAML files may say, frozen once read.

The names are those of the YAML, so that the files, this module and an adapter read alike. Money is US dollars
for one result.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field

from providers.catalog import price_formulas
from providers.catalog.cost_rules import CostTable, ExtraTokens
from providers.catalog.frozen import Entry, FrozenMap, empty
from providers.catalog.size_rules import SizeRule

SCHEMA_VERSION = 1
OPERATIONS = frozenset(
    {
        "generate",
        "edit",
        "upscale",
        "variations",
        "inpaint",
        "outpaint",
        "erase",
        "remove_background",
        "replace_background",
        "remove_text",
        "face_swap",
        "translate",
        "style_transfer",
        "character",
        "caption",
        "image_to_3d",
        "text_to_3d",
        "sketch_to_3d",
    }
)

MAX_MARKUP = 1000


def spoken(operation: str) -> str:
    """An operation as callers name it, in URLs and messages: "to-3d", "face-swap"."""
    return "to-3d" if operation == "image_to_3d" else operation.replace("_", "-")


Need = Literal["none", "optional", "required"]
Status = Literal["live", "retiring", "redirected", "shutdown", "unknown"]


class Listing(Entry):
    """In which order providers and their models are listed; a provider that is not named comes last, by name."""

    providers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


class Head(Entry):
    """What holds for all providers. ``quality`` is that of the models named in it; ``sources`` are those that entries
    of several providers name, and once read, all of them."""

    schema_version: int
    checked: date
    default_model: str
    order: Listing = Field(default_factory=Listing)
    sources: FrozenMap[str, str] = Field(default_factory=empty)
    aliases: FrozenMap[str, str]
    quality: FrozenMap[str, int] = Field(default_factory=empty)


class ProviderHead(Entry):
    """A provider's file without its block and its models. ``shared`` only gives YAML anchors a place."""

    sources: FrozenMap[str, str] = Field(default_factory=empty)
    shared: FrozenMap[str, Any] = Field(default_factory=empty)


class Recovery(StrEnum):
    """What may follow a paid call whose answer was lost: it may have run."""

    RESEND = "resend"  # the upstream runs our dedupe key once: look the call up, send the same bytes again if missing
    SEARCH = "search"  # its calls can be listed and compared; nothing is sent again
    NEVER = "never"  # neither: nothing is sent again, and the call is given up after a while


class PromptModel(Entry):
    """The language model of a provider: named by an environment variable, else ``default``; None without either."""

    variable: str
    default: str | None = None


class OwnKeys(Entry):
    """How calls are made with a key of a caller's own. ``house_only``: variables that belong to the operator's account
    at the upstream and do not go with another key. ``check``: a path below the base URL that answers 2xx to a good key,
    and nothing is bought; None: the upstream has none."""

    house_only: tuple[str, ...] = ()
    check: str | None = None


class ProviderSpec(Entry):
    """How an upstream behaves, as far as the queue must know it (docs/architecture.md)."""

    name: str
    title: str
    description: str = Field("", max_length=200)  # one sentence for callers who choose
    kind: Literal["sync", "async"]
    recovery: Recovery
    check_interval_s: float = Field(gt=0)
    check_interval_max_s: float = Field(gt=0)
    deadline_s: int = Field(gt=0)  # after this long a call that was sent is given up
    call_timeout_s: int = Field(gt=0)  # for the one submitting request
    batch_size: int = Field(ge=1)  # calls that one look at the upstream covers
    cancellable: bool
    webhooks: bool = False  # calls back when a call is done
    text: bool  # offers chat completions for prompt enhancement
    prompt_model: PromptModel | None = None  # by which of its models; stated where text is true
    env: tuple[str | tuple[str, ...], ...]  # all of these set = configured; of names in a list, one
    env_optional: tuple[str, ...] = ()
    own_keys: OwnKeys | None = None  # None: it takes no keys of callers, because the upstream is the operator's
    adapter: bool = True  # false: described here, but no code speaks to it
    also_called: tuple[str, ...] = ()  # other first parts in names such as "google/gemini-3-pro-image"
    note: str = ""


R = TypeVar("R", bound=Entry)


class ItemField(Entry):
    """One member of the objects in a list."""

    type: Literal["str", "int", "float"]
    required: bool = True
    min: int | float | None = None
    max: int | float | None = None


class ParamSpec(Entry):
    """One setting under its canonical name; ``field`` is the upstream's name where it differs. Text lengths are
    characters. ``enum`` of an ``int`` holds its whole numbers as texts; ``items`` says that a list is one of objects
    with these members and no others."""

    type: Literal["str", "int", "float", "bool", "list"]
    field: str | None = None
    enum: tuple[str, ...] = ()
    enum_for: FrozenMap[str, tuple[str, ...]] = Field(default_factory=empty)  # operation -> its own, shorter list
    default: bool | int | float | str | None = None
    min: int | float | None = None
    max: int | float | None = None
    max_len: int | None = None
    max_items: int | None = None
    items: FrozenMap[str, ItemField] = Field(default_factory=empty)
    required: bool = False
    required_with: Literal["images"] | None = None
    operations: tuple[str, ...] = ()  # empty: every operation of the model
    via: str | None = None  # where it goes when there is no plain field
    note: str | None = None


class ImageField(Entry):
    """A wire field that carries reference images."""

    is_list: bool = Field(alias="list")
    required: bool = False
    min: int | None = None
    max: int | None = None
    shape: str | None = None
    also: str | None = None  # another spelling the upstream takes
    note: str | None = None


class ImageCount(Entry):
    """Fewest and most images of an order."""

    min: int = Field(ge=0)
    max: int | None  # null: the upstream states no limit


class Inputs(Entry):
    """What goes in. The count of images is that of an order's ``images`` and its ``face`` together."""

    prompt: Need
    prompt_field: str | None = None
    prompt_max_len: int | None = None
    images: ImageCount
    image_fields: FrozenMap[str, ImageField] = Field(default_factory=empty)
    roles: FrozenMap[str, str] = Field(default_factory=empty)
    mask: Need
    mask_field: str | None = None
    mask_polarity: Literal["white_edits", "transparent_edits"] | None = None
    mask_list_max: int | None = None
    image_encoding: tuple[str, ...] = ()
    needs_one_of: tuple[Literal["prompt", "mask", "second_image"], ...] = ()


class CostTier(Entry):
    """``usd`` replaces the price, ``usd_add`` is added to it, when every key of ``when`` matches. US dollars."""

    when: FrozenMap[str, bool | str | tuple[str, ...]]
    usd: Decimal | None = None
    usd_add: Decimal | None = None


class CostPerUnit(Entry):
    """Additions in US dollars: for each further output megapixel, for each input image, for each megapixel of one.

    A megapixel that is begun counts whole. An image whose size is not known yet, as in an estimate, counts as one.
    """

    output_megapixel_beyond_first: Decimal = Decimal(0)
    input_image: Decimal = Decimal(0)
    input_megapixel: Decimal = Decimal(0)


class TokenPrices(Entry):
    """US dollars per million tokens of each kind; a kind without a price is unknown, not free.

    They give what a call cost, from the tokens that its answer reports, and with ``extra_tokens`` what a caller pays
    for what goes in.
    """

    text_input: Decimal | None = Field(default=None, ge=0)
    image_input: Decimal | None = Field(default=None, ge=0)
    text_output: Decimal | None = Field(default=None, ge=0)
    image_output: Decimal | None = Field(default=None, ge=0)


def _readable(text: str) -> str:
    price_formulas.read(text)
    return text


# JSONata as far as providers/catalog/price_formulas.py reads it; one that it cannot read is a fault of the entry.
FormulaText = Annotated[str, AfterValidator(_readable)]


class Model(Entry):
    """One model of one provider: everything that its entry says.

    ``cost_usd``: US dollars for one result. ``quality``: 3 for its vendor's best, 1 for a small or fast one, for
    ``auto:quality``. ``cost_formula`` gives the price of an order in place of all other rules
    (providers/orders/formulas.py); ``cost_usd`` is then that of a plain order, and ``cost_base_usd`` what the formula
    calls ``base_price``. ``cost_table`` goes before ``cost_usd`` and its tiers. ``auto_costs_as``: the dearest that a
    setting may become which is left to the upstream. ``order_defaults``: by operation, what is sent where an order
    says nothing, because the upstream's own choice has no price beforehand. ``markup`` replaces the service's own;
    ``hidden``: not offered, but orders that were accepted before still run. ``max_width`` and ``max_height`` are
    pixels.
    """

    id: str
    name: str
    provider: str
    path: str
    paths: FrozenMap[str, str] = Field(default_factory=empty)
    operation: str
    also: tuple[str, ...] = ()
    capabilities: tuple[str, ...]
    image_studio: bool = False
    cost_usd: Decimal = Field(ge=0)
    cost_note: str | None = None
    cost_tiers: tuple[CostTier, ...] = ()
    cost_per_unit: CostPerUnit = CostPerUnit()
    token_usd: TokenPrices | None = None
    cost_table: CostTable | None = None
    extra_tokens: ExtraTokens | None = None
    auto_costs_as: FrozenMap[str, str] = Field(default_factory=empty)
    order_defaults: FrozenMap[str, FrozenMap[str, str]] = Field(default_factory=empty)
    cost_formula: FormulaText | None = None
    cost_base_usd: Decimal | None = Field(default=None, ge=0)
    inputs: Inputs
    size: Literal["follows_input", "provider_default", "none"] | FrozenMap[str, SizeRule]
    params: FrozenMap[str, ParamSpec]
    constants: FrozenMap[str, str] = Field(default_factory=empty)  # wire fields that always go along
    sync_mode: bool | None = None
    base64_output: bool | None = None
    max_width: int | None = None
    max_height: int | None = None
    output: Literal["image", "model_3d", "text"]
    hf_provider: str | None = None
    provider_model: str | None = None
    status: Status = "live"
    retired_on: date | None = None
    retires_on: date | None = None
    replaced_by: str | None = None
    quirks: str | None = None
    source: tuple[str, ...]
    verified: bool
    quality: int = Field(default=2, ge=1, le=3)
    markup: Decimal | None = Field(default=None, gt=0, le=MAX_MARKUP)
    hidden: bool = False

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def operations(self) -> frozenset[str]:
        """Everything that the model can do."""
        return frozenset({self.operation, *self.also})

    @property
    def max_per_call(self) -> int:
        """How many images one call may make; more are made by several calls."""
        count = self.params.get("n")
        return int(count.max) if count is not None and count.max is not None else 1

    @property
    def live(self) -> bool:
        """Whether the model is offered without a warning: not retiring, not gone, not doubtful."""
        return self.status == "live"

    def gone(self, today: date) -> bool:
        """Whether the upstream no longer serves this model itself on that day."""
        if self.status in {"shutdown", "redirected"}:
            return True
        return self.status == "retiring" and self.retires_on is not None and self.retires_on <= today

    def status_on(self, day: date) -> Status:
        """The status on that day: a retiring model is shut down from its last day on."""
        return "shutdown" if self.status == "retiring" and self.gone(day) else self.status

    def size_rule(self, kind: type[R]) -> R | None:
        """The size rule of that kind, or None; a model has at most one of each."""
        rules = self.size.values() if not isinstance(self.size, str) else ()
        return next((rule for rule in rules if isinstance(rule, kind)), None)

    def order_params(self, operation: str) -> dict[str, ParamSpec]:
        """The settings a caller may give for the operation; ``n`` is not one of them."""
        return {
            name: spec.model_copy(update={"enum": spec.enum_for[operation]}) if operation in spec.enum_for else spec
            for name, spec in self.params.items()
            if name != "n" and (not spec.operations or operation in spec.operations)
        }
