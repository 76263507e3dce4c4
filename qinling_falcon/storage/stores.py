"""Which of the package storages this installation uses."""

from __future__ import annotations

from qinling_falcon.settings import Settings
from qinling_falcon.storage.packages import LocalPackages, PackageStore


def make_packages(settings: Settings) -> PackageStore:
    """The package storage that `PACKAGE_STORAGE` names. It is first asked for something when it is used."""
    match settings.package_storage:
        case "local":
            return LocalPackages.from_settings(settings)
        case "swift":
            from qinling_falcon.storage.swift_packages import SwiftPackages  # local packages need no keystoneauth

            return SwiftPackages(settings)
