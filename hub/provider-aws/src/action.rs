//! Every call that this crate makes, by the names that AWS gives them.

/// One call. Each has a permission of its own, which [`policy()`](crate::policy()) names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    AssumeRole,
    CreateSecurityGroup,
    DeleteSecurityGroup,
    DescribeImages,
    DescribeInstances,
    DescribeRegions,
    DescribeSecurityGroups,
    DescribeSpotPriceHistory,
    DescribeSubnets,
    GetCallerIdentity,
    GetParameter,
    GetProducts,
    RunInstances,
    StartInstances,
    StopInstances,
    TerminateInstances,
}

/// One service of AWS: a host name of its own and a dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Machines; forms and XML.
    Ec2,
    /// Who is who; forms and XML.
    Sts,
    /// Parameters; JSON.
    Ssm,
    /// List prices; JSON.
    Pricing,
}

impl Action {
    /// Its name in requests.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::AssumeRole => "AssumeRole",
            Self::CreateSecurityGroup => "CreateSecurityGroup",
            Self::DeleteSecurityGroup => "DeleteSecurityGroup",
            Self::DescribeImages => "DescribeImages",
            Self::DescribeInstances => "DescribeInstances",
            Self::DescribeRegions => "DescribeRegions",
            Self::DescribeSecurityGroups => "DescribeSecurityGroups",
            Self::DescribeSpotPriceHistory => "DescribeSpotPriceHistory",
            Self::DescribeSubnets => "DescribeSubnets",
            Self::GetCallerIdentity => "GetCallerIdentity",
            Self::GetParameter => "GetParameter",
            Self::GetProducts => "GetProducts",
            Self::RunInstances => "RunInstances",
            Self::StartInstances => "StartInstances",
            Self::StopInstances => "StopInstances",
            Self::TerminateInstances => "TerminateInstances",
        }
    }

    /// Whose call it is.
    pub(crate) const fn service(self) -> Service {
        match self {
            Self::AssumeRole | Self::GetCallerIdentity => Service::Sts,
            Self::GetParameter => Service::Ssm,
            Self::GetProducts => Service::Pricing,
            Self::CreateSecurityGroup
            | Self::DeleteSecurityGroup
            | Self::DescribeImages
            | Self::DescribeInstances
            | Self::DescribeRegions
            | Self::DescribeSecurityGroups
            | Self::DescribeSpotPriceHistory
            | Self::DescribeSubnets
            | Self::RunInstances
            | Self::StartInstances
            | Self::StopInstances
            | Self::TerminateInstances => Service::Ec2,
        }
    }

    /// Its name in a policy, such as `ec2:RunInstances`.
    pub(crate) fn permission(self) -> String {
        format!("{}:{}", self.service().name(), self.name())
    }
}

impl Service {
    /// Its name in host names, signatures and policies.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Sts => "sts",
            Self::Ssm => "ssm",
            Self::Pricing => "pricing",
        }
    }

    /// The version of its interface that is spoken; empty where it has none.
    pub(crate) const fn version(self) -> &'static str {
        match self {
            Self::Ec2 => "2016-11-15",
            Self::Sts => "2011-06-15",
            Self::Ssm | Self::Pricing => "",
        }
    }
}

#[cfg(test)]
impl Action {
    pub(crate) const ALL: [Self; 16] = [
        Self::AssumeRole,
        Self::CreateSecurityGroup,
        Self::DeleteSecurityGroup,
        Self::DescribeImages,
        Self::DescribeInstances,
        Self::DescribeRegions,
        Self::DescribeSecurityGroups,
        Self::DescribeSpotPriceHistory,
        Self::DescribeSubnets,
        Self::GetCallerIdentity,
        Self::GetParameter,
        Self::GetProducts,
        Self::RunInstances,
        Self::StartInstances,
        Self::StopInstances,
        Self::TerminateInstances,
    ];
}
