"""Names of columns: pure. The first English one is a field's own, and stands in our exports."""

from __future__ import annotations

from collections.abc import Sequence

# Field, its names in Chinese (the first stands in exports), and further ones.
SUBSCRIBERS = {
    "external_id": ("客户编号", "客户号", "id"),
    "name": ("姓名", "名称", "客户名称"),
    "kind": ("客户类型", "类型"),
    "subjects": ("用户标识", "标识", "subject"),
    "msisdn": ("手机号", "号码", "phone", "mobile"),
    "email": ("邮箱", "电子邮箱", "e-mail"),
    "plan": ("套餐", "套餐编码", "plan_code"),
}
COUPONS = {
    "code": ("优惠码", "编码"),
    "name": ("名称",),
    "percent": ("折扣百分比", "百分比"),
    "amount": ("减免金额", "金额"),
    "price": ("优惠价", "价格"),
    "covers": ("适用范围",),
    "periods": ("期数", "账期数"),
    "plans": ("适用套餐", "套餐"),
    "first_subscription": ("仅限首次", "新客"),
    "redeemable_from": ("开始时间", "生效时间"),
    "redeemable_until": ("结束时间", "失效时间"),
    "max_redemptions": ("最多次数", "限量"),
}
VOUCHERS = {
    "serial": ("序列号", "卡号", "serial_number"),
    "state": ("状态",),
    "reason": ("原因", "备注"),
}
BY_KIND = {"subscribers": SUBSCRIBERS, "coupons": COUPONS, "vouchers": VOUCHERS}
# Without these a file is not one of its kind.
NEEDED = {
    "subscribers": ("external_id",),
    "coupons": ("code", "name"),
    "vouchers": ("serial", "state"),
}
# What exports say besides, which imports pass over.
EXPORTED = {
    "subscribers": {"created_at": "开户时间"},
    "coupons": {"redeemed": "已用次数", "created_at": "创建时间"},
    "vouchers": {"changed_at": "状态时间", "subscriber": "使用客户", "amount": "面值"},
}


class WrongHeader(Exception):
    """The first row does not name the columns of its kind."""


def fields_of(kind: str, header: Sequence[str]) -> list[str | None]:
    """The field that each column of a file is, None for one that is passed over.

    Raises WrongHeader for a column that is missing, named twice, or known under no name.
    """
    names: dict[str, str | None] = dict.fromkeys(EXPORTED[kind])
    names |= dict.fromkeys(EXPORTED[kind].values())
    for field, others in BY_KIND[kind].items():
        names |= {field: field, **dict.fromkeys(others, field)}
    found: list[str | None] = []
    for title in header:
        name = title.strip().lower().replace(" ", "_")
        if name and name not in names:
            raise WrongHeader(f"no column of {kind} is called {title.strip()[:50]!r}")
        field_named = names[name] if name else None
        if field_named is not None and field_named in found:
            raise WrongHeader(f"two columns are {field_named}")
        found.append(field_named)
    missing = [field for field in NEEDED[kind] if field not in found]
    if missing:
        raise WrongHeader(
            f"there is no column {missing[0]} ({BY_KIND[kind][missing[0]][0]}) in the first row"
        )
    return found


def header_of(kind: str, language: str) -> list[str]:
    """The first row of an export."""
    if language == "zh":
        return [
            *(names[0] for names in BY_KIND[kind].values()),
            *EXPORTED[kind].values(),
        ]
    return [*BY_KIND[kind], *EXPORTED[kind]]
