"""What an order costs where the upstream bills tokens: the image by a table, and what goes in. US dollars, exact.

Source of the tokens of an image: providers/upstreams/openai/CONTRACT.md, "Prices, USD per image".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction

from providers.catalog.cost_rules import CostTable
from providers.catalog.entries import Model
from providers.orders.rules import CheckedOrder

TOKENS_PER_PRICE = 1_000_000
# A price that was worked out is rounded up to a hundredth of a cent, so that it is no odd number.
STEP_USD = Decimal("0.0001")

# The tokens of a patch grow with the area of the image: (BASE_AREA_PX + area) / PATCH_AREA_PX.
BASE_AREA_PX = 2_000_000
PATCH_AREA_PX = 4_000_000


def image_tokens(grid: int, width_px: int, height_px: int) -> int:
    """The most output tokens of one image of this size; ``grid``: patches along its longer side."""
    longer, shorter = max(width_px, height_px), min(width_px, height_px)
    patches = grid * math.ceil(Fraction(grid * shorter, longer))
    return math.ceil(Fraction(patches * (BASE_AREA_PX + width_px * height_px), PATCH_AREA_PX))


def extra_usd(model: Model, checked: CheckedOrder) -> Decimal:
    """What the prompt, the input images and the model's own words cost at most; 0 where tokens are not billed."""
    extra, prices = model.extra_tokens, model.token_usd
    if extra is None or prices is None:
        return Decimal(0)
    prompt_tokens = extra.text_input + len((checked.prompt or "").encode())
    total = (
        prompt_tokens * (prices.text_input or 0)
        + _input_images(checked) * extra.image_input * (prices.image_input or 0)
        + extra.text_output * (prices.text_output or 0)
    )
    return Decimal(total) / TOKENS_PER_PRICE


def table_usd(model: Model, table: CostTable, quality: str, pixels: tuple[int, int], checked: CheckedOrder) -> Decimal:
    """One image of this quality and size in pixels: by the table or by its tokens, whichever is more.

    The table gives one price for an area, but a square takes more tokens than an oblong of the same area.
    """
    prices, extra = model.token_usd, model.extra_tokens
    image_output = Decimal(0) if prices is None else prices.image_output or Decimal(0)
    counted = image_tokens(table.grid[quality], *pixels) * image_output / TOKENS_PER_PRICE + extra_usd(model, checked)
    rows, inputs = table.generate, _input_images(checked)
    if inputs and quality in table.edit:
        rows, inputs = table.edit, inputs - 1
    listed = by_area(table.areas_px, rows[quality], pixels[0] * pixels[1])
    if prices is not None and extra is not None:
        listed += inputs * extra.image_input * (prices.image_input or Decimal(0)) / TOKENS_PER_PRICE
    return max(rounded_up(counted), rounded_up(listed))


def by_area(areas_px: Sequence[int], row: Sequence[Decimal], area_px: int) -> Decimal:
    """The amount for an area: between two columns interpolated, beyond the last one extrapolated.

    Below the first column its amount: nothing says that a smaller image is cheaper.
    """
    if area_px <= areas_px[0]:
        return row[0]
    place = next((place for place, area in enumerate(areas_px) if area_px <= area), len(areas_px) - 1)
    (low_px, high_px), (low, high) = areas_px[place - 1 : place + 1], row[place - 1 : place + 1]
    amount = low + (high - low) * (area_px - low_px) / (high_px - low_px)
    return max(amount, row[-1]) if area_px > areas_px[-1] else amount


def rounded_up(usd: Decimal) -> Decimal:
    """The amount in whole steps of :data:`STEP_USD`, rounded up."""
    return usd.quantize(STEP_USD, rounding=ROUND_CEILING)


def _input_images(checked: CheckedOrder) -> int:
    return checked.image_count + checked.has_mask
