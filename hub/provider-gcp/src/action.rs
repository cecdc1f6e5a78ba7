//! Every call that this crate makes, by the names that Google gives them.

use http::Method;

/// One call. [`policy()`](crate::policy()) names the permissions of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    GetFirewall,
    GetInstance,
    GetNetwork,
    GetProject,
    GetRegion,
    DeleteFirewall,
    InsertFirewall,
    InsertInstance,
    DeleteInstance,
    ListInstances,
    ListMachineTypes,
    ListSkus,
    StartInstance,
    StopInstance,
    TestPermissions,
    WaitGlobal,
    WaitZone,
}

impl Action {
    /// Its name in Google's reference.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::GetFirewall => "firewalls.get",
            Self::GetInstance => "instances.get",
            Self::GetNetwork => "networks.get",
            Self::GetProject => "projects.get",
            Self::GetRegion => "regions.get",
            Self::DeleteFirewall => "firewalls.delete",
            Self::InsertFirewall => "firewalls.insert",
            Self::InsertInstance => "instances.insert",
            Self::DeleteInstance => "instances.delete",
            Self::ListInstances => "instances.aggregatedList",
            Self::ListMachineTypes => "machineTypes.list",
            Self::ListSkus => "services.skus.list",
            Self::StartInstance => "instances.start",
            Self::StopInstance => "instances.stop",
            Self::TestPermissions => "projects.testIamPermissions",
            Self::WaitGlobal => "globalOperations.wait",
            Self::WaitZone => "zoneOperations.wait",
        }
    }

    /// How it is called.
    pub(crate) const fn method(self) -> Method {
        match self {
            Self::DeleteFirewall | Self::DeleteInstance => Method::DELETE,
            Self::GetFirewall
            | Self::GetInstance
            | Self::GetNetwork
            | Self::GetProject
            | Self::GetRegion
            | Self::ListInstances
            | Self::ListMachineTypes
            | Self::ListSkus => Method::GET,
            Self::InsertFirewall
            | Self::InsertInstance
            | Self::StartInstance
            | Self::StopInstance
            | Self::TestPermissions
            | Self::WaitGlobal
            | Self::WaitZone => Method::POST,
        }
    }

    /// The permissions that it takes, the most telling one first. Which ones an order draws in is from Google's reference of
    /// `instances.insert` as it is generally known, and was not tried against an account.
    pub(crate) const fn permissions(self) -> &'static [&'static str] {
        match self {
            Self::GetFirewall => &["compute.firewalls.get"],
            Self::GetInstance => &["compute.instances.get"],
            Self::GetNetwork => &["compute.networks.get"],
            Self::GetProject => &["compute.projects.get"],
            Self::GetRegion => &["compute.regions.get"],
            Self::DeleteFirewall => &["compute.firewalls.delete", "compute.networks.updatePolicy"],
            Self::InsertFirewall => &["compute.firewalls.create", "compute.networks.updatePolicy"],
            Self::InsertInstance => &[
                "compute.instances.create",
                "compute.disks.create",
                "compute.disks.setLabels",
                "compute.images.useReadOnly",
                "compute.instances.setLabels",
                "compute.instances.setMetadata",
                "compute.instances.setTags",
                "compute.subnetworks.use",
                "compute.subnetworks.useExternalIp",
            ],
            Self::DeleteInstance => &["compute.instances.delete"],
            Self::ListInstances => &["compute.instances.list"],
            Self::ListMachineTypes => &["compute.machineTypes.list"],
            Self::StartInstance => &["compute.instances.start"],
            Self::StopInstance => &["compute.instances.stop"],
            // Anybody may ask what he may do himself, and what things cost.
            Self::ListSkus | Self::TestPermissions => &[],
            Self::WaitGlobal => &["compute.globalOperations.get"],
            Self::WaitZone => &["compute.zoneOperations.get"],
        }
    }

    /// The permission that is named where Google names none.
    pub(crate) fn permission(self) -> &'static str {
        self.permissions().first().copied().unwrap_or_else(|| self.name())
    }

    /// Every call.
    pub(crate) const ALL: [Self; 17] = [
        Self::GetFirewall,
        Self::GetInstance,
        Self::GetNetwork,
        Self::GetProject,
        Self::GetRegion,
        Self::DeleteFirewall,
        Self::InsertFirewall,
        Self::InsertInstance,
        Self::DeleteInstance,
        Self::ListInstances,
        Self::ListMachineTypes,
        Self::ListSkus,
        Self::StartInstance,
        Self::StopInstance,
        Self::TestPermissions,
        Self::WaitGlobal,
        Self::WaitZone,
    ];
}
