# SPDX-License-Identifier: Apache-2.0
"""What flavors and images may ask for, and what is refused."""

import json
import re
from collections.abc import Mapping
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies
from nova import exception, objects
from nova.api.validation.extra_specs import base, validators
from nova.objects import flavor as flavors
from nova.objects import image_meta as image_metas
from nova.objects import instance as instances

from doc import properties as published
from nova_smartos import extra_specs
from nova_smartos.translate import specs
from smartos_emulator.vmadm import properties as vmadm

objects.register_all()

KINDS = {
    "joyent": "zone-dataset",
    "joyent-minimal": "zone-dataset",
    "lx": "lx-dataset",
    "bhyve": "zvol",
    "kvm": "zvol",
}
# a value that each kind takes, for rows whose values have no simple form
EXAMPLES = {
    "bhyve_extra_opts": "-s 30,xhci",
    "disk_guest_block_size": "512/4096",
    "disk_pci_slots": "0:4:0 0:4:1",
    "filesystems": "/data/common=/mnt/common=ro /opt=/opt/node",
    "fs_allowed": "ufs,pcfs",
    "image_origin": "63d6e664-3f1f-11e8-aef6-a3120cf8dd9d",
    "image_uuid": "63d6e664-3f1f-11e8-aef6-a3120cf8dd9d",
    "init_name": "/sbin/init",
    "kernel_version": "4.3.0",
    "limit_priv": "default,!net_access,-proc_fork,dtrace_user",
    "pci_devices": "/devices/pci@0,0/pci8086,6f08@3/pci15d9,1528@0=0:8:0",
    "qemu_extra_opts": "-device usb-tablet",
    "signature": "0123456789abcdef" * 4,
}


def a_flavor(extra: Mapping[str, str] | None = None, **changes: Any) -> flavors.Flavor:
    values = {
        "flavorid": "7",
        "name": "small",
        "vcpus": 1,
        "memory_mb": 1024,
        "root_gb": 20,
        "ephemeral_gb": 0,
        "swap": 0,
        "extra_specs": dict(extra or {}),
    }
    return flavors.Flavor(**{**values, **changes})


def resolved(
    extra: Mapping[str, str] | None = None,
    image: Mapping[str, str] | None = None,
    kind: str | None = "zone-dataset",
    **changes: Any,
) -> specs.Specs:
    """What a flavor's extra specs and an image's properties become."""
    properties = dict(image or {})
    meta = image_metas.ImageMeta.from_dict({"properties": properties})
    return specs.resolve(a_flavor(extra, **changes), meta, properties, kind)


def fault(
    extra: Mapping[str, str] | None = None,
    image: Mapping[str, str] | None = None,
    kind: str | None = "zone-dataset",
    **changes: Any,
) -> str:
    """The text of the fault that they raise, which Nova takes for the end of the launch."""
    with pytest.raises(exception.InvalidInput) as caught:
        resolved(extra, image, kind, **changes)
    return caught.value.format_message()


def example(row: specs.Property, brand: str) -> str:
    """A value that a row takes for a brand."""
    if row.name in EXAMPLES:
        return EXAMPLES[row.name]
    if row.kind.words:
        known = [word for word in row.kind.words if brand in row.only.get(word, specs.ALL)]
        return brand if row.name == "brand" else known[-1]
    assert row.kind.minimum is not None
    return {"max_swap": "2048"}.get(row.name, str(max(512, row.kind.minimum)))


# the table


def test_the_names_are_in_the_order_of_the_alphabet_and_unique() -> None:
    names = [row.name for row in specs.TABLE]
    assert names == sorted(set(names))


def test_every_row_becomes_a_property_that_vmadm_has_for_its_brands() -> None:
    action = {True: "add", False: "create"}
    for row in specs.TABLE:
        if row.vmadm == "-" or row.vmadm.startswith("internal_metadata."):
            continue
        for brand in row.brands:
            # kvm has one firmware, bhyve one graphics card: nothing is said of them
            if (row.name, brand) in {("firmware", "kvm"), ("video", "bhyve")}:
                continue
            allowed = vmadm.PROPERTIES[row.vmadm].allowed[brand]
            assert action["*" in row.vmadm] in allowed, (row.name, brand)


@pytest.mark.parametrize(
    "name",
    [
        "allow_ip_spoofing",
        "allow_mac_spoofing",
        "bhyve_extra_opts",
        "cpu_cap",
        "cpu_shares",
        "disk_compression",
        "filesystems",
        "fs_allowed",
        "indestructible_zoneroot",
        "init_name",
        "limit_priv",
        "max_lwps",
        "max_swap",
        "pci_devices",
        "qemu_extra_opts",
        "zfs_filesystem_limit",
        "zfs_io_priority",
    ],
)
def test_privilege_and_shares_come_from_flavors_alone(name: str) -> None:
    row = specs.PROPERTIES[name]
    brand = min(row.brands)
    said = fault(image={row.image_key: example(row, brand)}, kind=KINDS[brand])
    assert row.image_key in said
    assert "only a flavor" in said
    value = resolved({row.flavor_key: example(row, brand)} | _brand(brand), kind=KINDS[brand])
    assert name in value.values


def _brand(brand: str) -> dict[str, str]:
    return {"smartos:brand": brand}


@pytest.mark.parametrize("row", specs.TABLE, ids=lambda row: row.name)
def test_every_row_is_taken_for_its_brands_and_refused_for_the_others(row: specs.Property) -> None:
    if row.name in ("brand", "image_type"):
        pytest.skip("every brand has one")
    for brand in specs.BRANDS:
        extra, image = _brand(brand), {}
        text = example(row, brand if brand in row.brands else min(row.brands))
        (extra if row.flavor else image)[row.flavor_key if row.flavor else row.image_key] = text
        if brand in row.brands:
            found = resolved(extra, image, KINDS[brand])
            assert found.values[row.name] == row.kind.parse(text)
        else:
            assert row.name in fault(extra, image, KINDS[brand])


@pytest.mark.parametrize("row", specs.TABLE, ids=lambda row: row.name)
@hypothesis.settings(deadline=None, derandomize=True)
@hypothesis.given(text=strategies.text() | strategies.sampled_from(["", "-1", "1e3", "٣", "TRUE "]))
def test_a_value_is_typed_or_refused_by_name(row: specs.Property, text: str) -> None:
    try:
        value = row.parse("smartos:x", text)
    except exception.InvalidInput as error:
        assert "smartos:x" in error.format_message()
        assert row.kind.allowed in error.format_message()
        return
    if row.kind.minimum is not None and row.kind.maximum is not None:
        assert row.kind.minimum <= value <= row.kind.maximum
    elif row.kind.words:
        assert str(value).lower() in row.kind.words
    else:
        # what reaches zonecfg and argv as text
        assert not re.search(r'["\n\\\0]', text)


# keys that nobody knows


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("smartos:cpu_caps", "smartos:cpu_cap"),
        ("smartos:zfs_io_prioriti", "smartos:zfs_io_priority"),
        ("smartos:cpu-cap", "smartos:cpu_cap"),
        ("smartos_cpu_cap", "smartos:cpu_cap"),
        ("SmartOS:cpu_cap", "smartos:cpu_cap"),
        ("smartos.cpu_cap", "smartos:cpu_cap"),
    ],
)
def test_a_misspelt_extra_spec_names_the_nearest(key: str, near: str) -> None:
    said = fault({key: "100"})
    assert key in said
    assert near in said


def test_a_misspelt_image_property_names_the_nearest() -> None:
    said = fault(image={"smartos_brnad": "lx"})
    assert "smartos_brnad" in said
    assert "smartos_brand" in said


def test_what_only_an_image_says_is_refused_in_a_flavor() -> None:
    assert "smartos_image_type" in fault({"smartos:image_type": "zvol"})


def test_keys_of_others_are_left_alone() -> None:
    extra = {
        "trait:CUSTOM_A": "required",
        "resources:VCPU": "2",
        "capabilities:hypervisor_type": "SmartOS",
        "aggregate_instance_extra_specs:ssd": "true",
        "hw:cpu_sockets": "1",
        "hw:cpu_policy": "shared",
        "hw:mem_page_size": "any",
        "hw_rng:allowed": "true",
        "vmware:hw_version": "1",
        "whatever": "x",
    }
    image = {"os_distro": "debian", "hw_qemu_guest_agent": "yes", "com.example.smartos": "1"}
    assert resolved(extra, image).brand == "joyent"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("hw:cpu_policy", "dedicated"),
        ("hw:cpu_policy", "mixed"),
        ("hw:cpu_thread_policy", "isolate"),
        ("hw:cpu_realtime", "yes"),
        ("hw:mem_page_size", "large"),
        ("hw:mem_page_size", "2048"),
        ("hw:numa_nodes", "1"),
        ("hw:numa_cpus.0", "0-1"),
        ("hw:mem_encryption", "true"),
        ("hw:tpm_version", "2.0"),
        ("hw:watchdog_action", "reset"),
        ("os:secure_boot", "required"),
        ("pci_passthrough:alias", "gpu:1"),
        ("quota:disk_read_iops_sec", "100"),
        ("quota:vif_inbound_average", "1000"),
        ("quota:cpu_limit", "2000"),
        ("quota:memory_limit", "512"),
    ],
)
def test_what_smartos_cannot_do_is_refused(key: str, text: str) -> None:
    said = fault({key: text})
    assert f"{key}={text}" in said
    assert "cannot be had here" in said


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("hw_cpu_policy", "dedicated"),
        ("hw_mem_page_size", "1GB"),
        ("hw_numa_nodes", "2"),
        ("hw_mem_encryption", "true"),
        ("hw_tpm_model", "tpm-crb"),
        ("hw_watchdog_action", "reset"),
        ("os_secure_boot", "required"),
    ],
)
def test_an_image_that_wants_what_cannot_be_is_refused(key: str, text: str) -> None:
    assert key in fault(image={key: text})


def test_an_image_that_wants_nothing_of_it_is_taken() -> None:
    image = {"hw_cpu_policy": "shared", "hw_mem_encryption": "false", "os_secure_boot": "optional"}
    assert resolved(image=image).brand == "joyent"


# the brand


@pytest.mark.parametrize(
    ("extra", "image", "kind", "brand"),
    [
        ({}, {}, "zone-dataset", "joyent"),
        ({}, {}, "lx-dataset", "lx"),
        ({}, {}, "zvol", "bhyve"),
        ({"smartos:brand": "joyent-minimal"}, {}, "zone-dataset", "joyent-minimal"),
        ({}, {"smartos_brand": "kvm"}, "zvol", "kvm"),
        ({}, {"img_hv_type": "kvm"}, "zvol", "kvm"),
        ({}, {"hypervisor_type": "kvm"}, "zvol", "kvm"),
        ({"smartos:brand": "kvm"}, {"img_hv_type": "kvm", "hw_vm_mode": "hvm"}, "zvol", "kvm"),
        ({}, {"hw_vm_mode": "exe", "img_hv_type": "lxc"}, "lx-dataset", "lx"),
        ({}, {"smartos_brand": "lx"}, None, "lx"),
    ],
)
def test_who_decides_the_brand(
    extra: dict[str, str], image: dict[str, str], kind: str | None, brand: str
) -> None:
    found = resolved(extra, image, kind)
    assert (found.brand, found.hvm) == (brand, brand in specs.HVM)


@pytest.mark.parametrize(
    ("extra", "image", "kind", "named"),
    [
        ({"smartos:brand": "lx"}, {}, "zvol", ["smartos:brand=lx", "zvol"]),
        ({"smartos:brand": "bhyve"}, {}, "zone-dataset", ["smartos:brand", "zone-dataset"]),
        ({}, {"smartos_brand": "kvm"}, "lx-dataset", ["smartos_brand", "lx-dataset"]),
        ({"smartos:brand": "kvm"}, {"smartos_brand": "bhyve"}, "zvol", ["kvm", "bhyve"]),
        ({"smartos:brand": "bhyve"}, {"img_hv_type": "kvm"}, "zvol", ["img_hv_type=kvm"]),
        ({}, {"img_hv_type": "kvm"}, "zone-dataset", ["img_hv_type=kvm"]),
        ({}, {"img_hv_type": "vmware"}, "zvol", ["img_hv_type=vmware"]),
        ({}, {"hw_vm_mode": "exe"}, "zvol", ["hw_vm_mode=exe"]),
        ({}, {"hw_vm_mode": "hvm"}, "lx-dataset", ["hw_vm_mode=hvm"]),
        ({}, {}, "docker", ["docker"]),
        ({}, {}, None, ["smartos:brand", "smartos_brand"]),
        ({}, {"hw_firmware_type": "uefi"}, "zone-dataset", ["hw_firmware_type", "joyent"]),
        ({"smartos:brand": "kvm"}, {"hw_firmware_type": "uefi"}, "zvol", ["uefi", "bhyve"]),
        ({}, {"hw_disk_bus": "scsi"}, "zvol", ["hw_disk_bus", "kvm"]),
        ({}, {"hw_disk_bus": "usb"}, "zvol", ["hw_disk_bus=usb", "virtio"]),
        ({}, {"hw_vif_model": "rtl8139"}, "zvol", ["hw_vif_model", "kvm"]),
        ({}, {"os_type": "windows"}, "lx-dataset", ["os_type=windows"]),
        ({}, {"os_type": "linux"}, "zone-dataset", ["os_type=linux"]),
        ({"smartos:vcpus": "4"}, {}, "zvol", ["smartos:vcpus"]),
    ],
)
def test_a_contradiction_is_a_fault_that_names_it(
    extra: dict[str, str], image: dict[str, str], kind: str | None, named: list[str]
) -> None:
    said = fault(extra, image, kind)
    assert all(each in said for each in named), said


# names of Nova's own


@pytest.mark.parametrize(
    ("brand", "image", "name", "value"),
    [
        ("bhyve", {"hw_disk_bus": "sata"}, "disk_model", "ahci"),
        ("kvm", {"hw_disk_bus": "ide"}, "disk_model", "ide"),
        ("bhyve", {"smartos_disk_model": "nvme"}, "disk_model", "nvme"),
        ("kvm", {"hw_vif_model": "e1000"}, "nic_model", "e1000"),
        ("bhyve", {"hw_firmware_type": "uefi"}, "firmware", "uefi"),
        ("kvm", {"hw_video_model": "vmvga"}, "video", "vmware"),
        ("bhyve", {"hw_video_model": "none"}, "video", "none"),
    ],
)
def test_novas_image_properties(brand: str, image: dict[str, str], name: str, value: str) -> None:
    assert resolved(_brand(brand), image, "zvol").values[name] == value


def test_flavor_and_image_that_differ_are_a_fault() -> None:
    said = fault({"smartos:disk_model": "nvme"}, {"hw_disk_bus": "virtio"}, "zvol")
    assert "smartos:disk_model=nvme" in said
    assert "hw_disk_bus=virtio" in said
    agreed = resolved({"smartos:disk_model": "virtio"}, {"hw_disk_bus": "virtio"}, "zvol")
    assert agreed.values["disk_model"] == "virtio"


@pytest.mark.parametrize(
    ("vcpus", "extra", "cap"),
    [
        (1, {}, 100),
        (4, {}, 400),
        (1, {"quota:cpu_quota": "25000", "quota:cpu_period": "100000"}, 25),
        (1, {"quota:cpu_quota": "75000"}, 75),
        (2, {"quota:cpu_quota": "25000"}, 50),
        (1, {"quota:cpu_quota": "10000", "quota:cpu_period": "20000"}, 50),
        (1, {"quota:cpu_quota": "-1"}, 0),
        (1, {"quota:cpu_quota": "1000", "quota:cpu_period": "1000000"}, 1),
        (2, {"quota:cpu_period": "50000"}, 200),
        (2, {"smartos:cpu_cap": "75"}, 75),
        (2, {"smartos:cpu_cap": "0"}, 0),
        (1, {"smartos:cpu_cap": "25", "quota:cpu_quota": "25000"}, 25),
    ],
)
def test_the_cap_is_percent_of_a_core(vcpus: int, extra: dict[str, str], cap: int) -> None:
    assert resolved(extra, vcpus=vcpus).values["cpu_cap"] == cap


@pytest.mark.parametrize(
    "extra",
    [
        {"quota:cpu_quota": "0"},
        {"quota:cpu_quota": "999"},
        {"quota:cpu_quota": "half"},
        {"quota:cpu_quota": "50000", "quota:cpu_period": "999"},
        {"quota:cpu_quota": "50000", "quota:cpu_period": "-5"},
        {"smartos:cpu_cap": "50", "quota:cpu_quota": "25000"},
        {"smartos:cpu_cap": "-1"},
        {"quota:cpu_shares": "0"},
        {"quota:cpu_shares": "65536"},
        {"quota:cpu_shares": "10", "smartos:cpu_shares": "11"},
    ],
)
def test_a_wrong_cap_or_share_is_a_fault(extra: dict[str, str]) -> None:
    said = fault(extra)
    assert any(f"{key}=" in said for key in extra)


@pytest.mark.parametrize(
    ("vcpus", "extra", "shares"),
    [
        (1, {}, 100),
        (8, {}, 800),
        (1000, {}, 65535),
        (2, {"quota:cpu_shares": "5"}, 5),
        (2, {"smartos:cpu_shares": "7"}, 7),
    ],
)
def test_shares_are_in_proportion_to_vcpus(vcpus: int, extra: dict[str, str], shares: int) -> None:
    assert resolved(extra, vcpus=vcpus).values["cpu_shares"] == shares


@pytest.mark.parametrize(
    ("name", "text"), [("max_swap", "1023"), ("tmpfs", "1025"), ("max_locked_memory", "1025")]
)
def test_what_vmadm_would_adjust_in_silence_is_a_fault(name: str, text: str) -> None:
    assert f"{name}={text}" in fault({f"smartos:{name}": text}, memory_mb=1024)


def test_nics() -> None:
    extra = {"smartos:allow_ip_spoofing": "true", "smartos:allow_mac_spoofing": "false"}
    assert resolved(extra).nic == {"allow_ip_spoofing": True}
    found = resolved({**extra, "smartos:nic_model": "e1000"}, kind="zvol")
    assert found.nic == {"model": "e1000", "allow_ip_spoofing": True}


# the image's properties


def test_properties_that_nova_has_no_name_for_come_from_system_metadata() -> None:
    meta = image_metas.ImageMeta.from_dict({"properties": {"smartos_brand": "lx"}})
    assert not meta.properties.obj_what_changed()
    instance = instances.Instance(
        system_metadata={
            "image_smartos_brand": "lx",
            "image_min_disk": 3,
            "boot_roles": "member",
            "smartos_brand": "kvm",
            "image_smartos_gone": None,
        }
    )
    assert specs.image_properties(instance) == {"smartos_brand": "lx", "min_disk": "3"}


def test_what_comes_from_outside_is_not_taken_over() -> None:
    """Neither an unknown key nor its value leads to a value of ours."""

    @hypothesis.settings(deadline=None, derandomize=True)
    @hypothesis.given(
        strategies.dictionaries(strategies.text(), strategies.text(), max_size=4),
        strategies.dictionaries(strategies.text(), strategies.text(), max_size=4),
    )
    def check(extra: dict[str, str], image: dict[str, str]) -> None:
        try:
            found = specs.resolve(
                a_flavor(extra),
                image_metas.ImageMeta.from_dict({"properties": {}}),
                image,
                "lx-dataset",
            )
        except exception.InvalidInput:
            return
        assert found == specs.Specs("lx", {"cpu_cap": 100, "cpu_shares": 100})

    check()


# nova-api


def test_nova_knows_our_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """With our validators a wrong extra spec is refused when the flavor is written."""
    ours = {validator.name: validator for validator in extra_specs.register()}
    assert set(ours) == {row.flavor_key for row in specs.TABLE if row.flavor}
    monkeypatch.setattr(validators, "VALIDATORS", {**validators.VALIDATORS, **ours})
    monkeypatch.setattr(validators, "NAMESPACES", {*validators.NAMESPACES, "smartos"})
    for row in specs.TABLE:
        if row.flavor:
            validators.validate(row.flavor_key, example(row, min(row.brands)))
    for key, text in (
        ("smartos:cpu_caps", "100"),
        ("smartos:cpu_cap", "much"),
        ("smartos:brand", "solaris"),
        ("smartos:limit_priv", "a;b"),
        ("smartos:delegate_dataset", "perhaps"),
    ):
        with pytest.raises(exception.ValidationError):
            validators.validate(key, text)
    assert all(isinstance(each, base.ExtraSpecValidator) for each in ours.values())


def test_without_our_validators_nova_lets_the_namespace_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {name: each for name, each in validators.VALIDATORS.items() if "smartos" not in name}
    monkeypatch.setattr(validators, "VALIDATORS", known)
    monkeypatch.setattr(validators, "NAMESPACES", validators.NAMESPACES - {"smartos"})
    validators.validate("smartos:brand", "lx")


# what is published


def test_the_documents_are_up_to_date() -> None:
    """Write them anew with: make gendocs"""
    for path, text in published.files().items():
        assert path.read_text() == text, path


@pytest.mark.parametrize("kind", ["flavor", "image"])
def test_metadefs_are_what_glance_loads(kind: str) -> None:
    """Glance's reader wants these keys, and makes each property's schema of the rest."""
    document: dict[str, Any] = json.loads(published.metadefs(kind))
    assert set(document) == {
        "namespace",
        "display_name",
        "description",
        "visibility",
        "protected",
        "resource_type_associations",
        "properties",
    }
    prefix = {"flavor": "smartos:", "image": "smartos_"}[kind]
    for name, schema in document["properties"].items():
        assert name.startswith(prefix)
        row = specs.PROPERTIES[name.removeprefix(prefix)]
        assert schema["type"] in ("string", "integer", "boolean")
        assert schema["title"]
        text = example(row, min(row.brands))
        if "pattern" in schema:
            assert re.search(schema["pattern"], text)
        if "enum" in schema:
            assert text in schema["enum"]


def test_a_property_s_name_forges_no_line_of_a_log() -> None:
    said = fault(image={"smartos_x\n2026-01-01 ERROR \x1b[2J forged": "1"})
    assert said.isprintable()
    assert r"smartos_x\n2026-01-01" in said
