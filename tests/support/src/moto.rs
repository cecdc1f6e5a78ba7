//! A stand-in for AWS: the server of moto, which a test starts for itself.
//!
//! It knows no client tokens and checks no signature; what depends on these is tested elsewhere.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::http::Request;
use crate::{Launch, Process};

/// The version that `tests/run` installs.
const VERSION: &str = "5.2.5";

/// Longest wait for it; it reads its lists of images and kinds at its first call.
const SOON: Duration = Duration::from_secs(60);

/// The running server. It ends with this value.
#[derive(Debug)]
pub struct Moto {
    process: Process,
    address: SocketAddr,
}

impl Moto {
    /// The program: what `MOTO_SERVER` names, else what `tests/run` installed; `None` where it is not there.
    #[must_use]
    pub fn program() -> Option<PathBuf> {
        let path = match std::env::var_os("MOTO_SERVER") {
            Some(named) => PathBuf::from(named),
            None => {
                let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
                let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
                cache.join(format!("blueprint-hub/moto-{VERSION}/bin/moto_server"))
            }
        };
        path.is_file().then_some(path)
    }

    /// Starts it on a free port; it takes images and kinds of machines alone that AWS has.
    ///
    /// # Errors
    ///
    /// Fails where it does not start.
    pub fn start() -> Result<Self> {
        let program = Self::program().context("moto is not installed")?;
        let mut process = Launch::new(program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("MOTO_ENABLE_AMI_VALIDATION", "true")
            .env("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "true")
            .env("PYTHONUNBUFFERED", "1")
            .start()?;
        let line = process.wait_for_line("Running on http://", SOON)?;
        let address = line.rsplit("http://").next().context("an address")?.trim().parse()?;
        Ok(Self { process, address })
    }

    /// Where it listens, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Makes a call of EC2 with these parameters, form-encoded by the caller; the answer is XML.
    ///
    /// # Errors
    ///
    /// Fails where it refuses.
    pub fn ec2(&self, region: &str, parameters: &str) -> Result<String> {
        let body = format!("{parameters}&Version=2016-11-15");
        self.call(region, "ec2", "application/x-www-form-urlencoded", None, &body)
    }

    /// Sets a parameter of SSM.
    ///
    /// # Errors
    ///
    /// Fails where it refuses.
    pub fn put_parameter(&self, region: &str, name: &str, value: &str) -> Result<()> {
        let body = serde_json::json!({ "Name": name, "Value": value, "Type": "String", "Overwrite": true });
        let target = Some("AmazonSSM.PutParameter");
        self.call(region, "ssm", "application/x-amz-json-1.1", target, &body.to_string()).map(drop)
    }

    /// The id of an image for this kind of processor (`x86_64` or `arm64`) with a name of its system disk.
    ///
    /// # Errors
    ///
    /// Fails where it has none.
    pub fn image(&self, region: &str, arch: &str) -> Result<String> {
        let filter = format!(
            "Action=DescribeImages&Filter.1.Name=architecture&Filter.1.Value.1={arch}&Filter.2.Name=root-device-type\
             &Filter.2.Value.1=ebs"
        );
        let answer = self.ec2(region, &filter)?;
        all(&answer, "imageId").into_iter().next().with_context(|| format!("no image for {arch} in {region}"))
    }

    /// Its signature is not checked; the scope in it tells the region and the service.
    fn call(
        &self,
        region: &str,
        service: &str,
        kind: &str,
        target: Option<&str>,
        body: &str,
    ) -> Result<String> {
        let scope = format!("AWS4-HMAC-SHA256 Credential=a/20260101/{region}/{service}/aws4_request");
        let request =
            Request::new("POST", "/").header("content-type", kind).header("authorization", &scope).body(body);
        let request = match target {
            Some(target) => request.header("x-amz-target", target),
            None => request,
        };
        let answer = request.send(self.address, SOON)?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(answer.status == 200, "{body}: {} {text}", answer.status);
        Ok(text)
    }
}

/// The texts of all elements of this name, in their order.
#[must_use]
pub fn all(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let texts = xml.split(&open).skip(1).filter_map(|rest| rest.split(&close).next());
    texts.map(str::to_owned).collect()
}
