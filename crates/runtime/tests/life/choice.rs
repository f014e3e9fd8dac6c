//! Which provider is taken where nobody names one: among providers that say of themselves what a test wants.

use async_trait::async_trait;
use sandbar_core::{
    AttachRequest, Claim, ErrorKind, Feature, FeatureSet, Isolation, Limits, Network, Probe, ProviderInfo, ProvisionRequest, Resource,
    RestoreRequest, Result, SandboxHandle, SandboxId, SandboxProvider, SandboxSpec,
};
use sandbar_runtime::{CreateRequest, ForkOptions, Registry, Runtime, RuntimeConfig};
use tempfile::TempDir;

use crate::support::Fake;

/// A fake that says something else of itself.
struct Posing {
    fake: Fake,
    name: &'static str,
    isolation: Isolation,
    features: FeatureSet,
    missing: Option<&'static str>,
}

#[async_trait]
impl SandboxProvider for Posing {
    fn info(&self) -> ProviderInfo {
        ProviderInfo { name: self.name.into(), isolation: self.isolation, features: self.features.clone(), ..self.fake.info() }
    }

    /// With the runtime `strong` one level more than namespaces.
    fn isolation(&self, spec: &SandboxSpec) -> Isolation {
        if spec.runtime.as_deref() == Some("strong") { self.isolation.max(Isolation::UserKernel) } else { self.isolation }
    }

    async fn probe(&self) -> Probe {
        match self.missing {
            None if self.fake.failing().contains("probe") => self.fake.probe().await,
            None => Probe { usable: true, verdict: format!("{} works", self.name), hint: None },
            Some(missing) => Probe { usable: false, verdict: format!("{missing} is missing"), hint: Some(format!("install {missing}")) },
        }
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Box<dyn SandboxHandle>> {
        self.fake.provision(request).await
    }

    async fn attach(&self, request: AttachRequest) -> Result<Box<dyn SandboxHandle>> {
        self.fake.attach(request).await
    }

    async fn restore(&self, request: ProvisionRequest, from: RestoreRequest) -> Result<Box<dyn SandboxHandle>> {
        self.fake.restore(request, from).await
    }

    async fn reclaim(&self, id: &SandboxId, resources: &[Resource]) -> Result<()> {
        self.fake.reclaim(id, resources).await
    }
}

/// The providers of a machine: the weakest takes all that the fake takes but a disk limit; the others are as told.
struct Machine {
    home: TempDir,
    registry: Registry,
}

impl Machine {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        Self { home, registry: Registry::default() }.with(
            "container",
            Isolation::Namespaces,
            Fake::features().without(Feature::LimitDisk),
            None,
        )
    }

    fn with(mut self, name: &'static str, isolation: Isolation, features: FeatureSet, missing: Option<&'static str>) -> Self {
        let posing = Posing { fake: Fake::default(), name, isolation, features: features.clone(), missing };
        self.registry = self.registry.with(Claim { provider: name, features }, isolation, posing);
        self
    }

    async fn runtime(&self) -> Runtime {
        self.runtime_with(RuntimeConfig::new(self.home.path())).await
    }

    async fn runtime_with(&self, config: RuntimeConfig) -> Runtime {
        Runtime::open_with(config, self.registry.clone()).await.unwrap()
    }
}

fn with_disk() -> CreateRequest {
    let limits = Limits { disk: Some(1 << 30), ..Limits::default() };
    CreateRequest { spec: SandboxSpec { limits, ..SandboxSpec::default() }, ..CreateRequest::default() }
}

/// The provider, its reason, and what is worth telling.
async fn chosen(runtime: &Runtime, request: CreateRequest) -> (String, String, Option<String>) {
    let sandbox = runtime.create(request).await.unwrap();
    let inspect = sandbox.inspect().await.unwrap();
    let remark = sandbox.choice_remark().map(ToOwned::to_owned);
    sandbox.destroy().await.unwrap();
    (inspect.summary.provider, inspect.choice, remark)
}

#[tokio::test]
async fn the_weakest_wall_that_works_is_the_usual_one() {
    let machine = Machine::new().with("kernel", Isolation::UserKernel, Fake::features(), None);
    let runtime = machine.runtime().await;
    let (name, reason, remark) = chosen(&runtime, CreateRequest::default()).await;
    assert_eq!((name.as_str(), reason.as_str(), remark), ("container", "the first usable provider: container works", None));
    // Who asks for the choice is told of it, also where the configuration names one.
    let config = RuntimeConfig { provider: Some("kernel".into()), ..RuntimeConfig::new(machine.home.path()) };
    let runtime = machine.runtime_with(config).await;
    let request = CreateRequest { provider: Some("auto".into()), ..CreateRequest::default() };
    let (name, _, remark) = chosen(&runtime, request).await;
    assert_eq!((name.as_str(), remark.as_deref()), ("container", Some("container: the first usable provider: container works")));
    assert_eq!(chosen(&runtime, CreateRequest::default()).await.0, "kernel");
}

#[tokio::test]
async fn what_lacks_something_that_is_asked_for_is_passed_over_and_that_is_told() {
    let machine = Machine::new().with("kernel", Isolation::UserKernel, Fake::features(), None);
    let (name, reason, remark) = chosen(&machine.runtime().await, with_disk()).await;
    assert_eq!(name, "kernel");
    assert_eq!(reason, "the first usable provider: kernel works (passed over: container does not have limit-disk here)");
    assert_eq!(remark, Some(format!("kernel: {reason}")));
    // By name it is refused, as ever.
    let named = CreateRequest { provider: Some("container".into()), ..with_disk() };
    assert_eq!(machine.runtime().await.create(named).await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn what_does_not_work_here_is_passed_over_and_a_floor_is_met_by_the_weakest_that_does() {
    let machine = Machine::new().with("kernel", Isolation::UserKernel, Fake::features(), Some("runsc")).with(
        "machine",
        Isolation::Vm,
        Fake::features(),
        None,
    );
    let request = CreateRequest { isolation: Some(Isolation::UserKernel), ..CreateRequest::default() };
    let (name, reason, remark) = chosen(&machine.runtime().await, request).await;
    assert_eq!(name, "machine");
    let expected = "the first usable provider with isolation user-kernel or stronger: machine works \
                    (passed over: container has only namespaces; kernel: runsc is missing)";
    assert_eq!((reason.as_str(), remark), (expected, Some(format!("machine: {expected}"))));
}

#[tokio::test]
async fn an_image_is_taken_by_whoever_takes_such_images() {
    let only_layers: FeatureSet = Fake::features().iter().chain([Feature::LayeredImage]).collect();
    let only_host: FeatureSet = Fake::features().iter().chain([Feature::HostImage]).collect();
    let machine =
        Machine::new().with("container", Isolation::Namespaces, only_layers, None).with("kernel", Isolation::UserKernel, only_host, None);
    let runtime = machine.runtime().await;
    let (name, reason, _) = chosen(&runtime, CreateRequest::default()).await;
    assert_eq!(name, "kernel");
    assert!(reason.contains("container needs an image, and its default `base` is not here"), "{reason}");
    let on_host = CreateRequest { image: Some("host".into()), ..CreateRequest::default() };
    let (name, reason, _) = chosen(&runtime, on_host).await;
    assert_eq!(name, "kernel");
    assert!(reason.contains("container does not have host-image here"), "{reason}");
    // The choice falls before the image is looked for.
    let other = CreateRequest { image: Some("other".into()), isolation: Some(Isolation::UserKernel), ..CreateRequest::default() };
    let error = runtime.create(other).await.unwrap_err();
    assert!(error.message().contains("kernel does not have layered-image here"), "{error}");
}

#[tokio::test]
async fn who_cannot_show_the_hosts_programs_takes_the_image_base_where_it_is() {
    let only_layers: FeatureSet = Fake::features().iter().chain([Feature::LayeredImage]).collect();
    let machine = Machine::new().with("kernel", Isolation::UserKernel, only_layers.clone(), Some("runsc")).with(
        "machine",
        Isolation::Vm,
        only_layers,
        None,
    );
    let runtime = machine.runtime().await;
    let request = || CreateRequest { isolation: Some(Isolation::UserKernel), ..CreateRequest::default() };
    let error = runtime.create(request()).await.unwrap_err();
    assert!(error.message().contains("machine needs an image, and its default `base` is not here"), "{error}");
    // Of one that lacks more than the image, that is told.
    let hint = "kernel: install runsc\nmachine: sandbar setup machine makes it; or name another one with --image";
    assert_eq!(error.hint(), Some(hint));

    let tree = machine.home.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    runtime.import_image(&tree, Some("base")).await.unwrap();
    let (name, reason, _) = chosen(&runtime, request()).await;
    assert_eq!(name, "machine", "{reason}");
}

#[tokio::test]
async fn who_only_asks_is_told_what_the_configurations_image_and_network_would_get() {
    let limited = Fake::features().without(Feature::NetworkOpen);
    let layered: FeatureSet = Fake::features().iter().chain([Feature::LayeredImage, Feature::HostImage]).collect();
    let machine = Machine::new()
        .with("container", Isolation::Namespaces, limited, None)
        .with("kernel", Isolation::UserKernel, Fake::features(), None)
        .with("machine", Isolation::Vm, layered, None);
    let named = async |runtime: &Runtime, image: Option<&str>, features: Vec<Feature>| {
        runtime.provider_with(None, image, features, None).await.unwrap().info().name
    };
    let plain = machine.runtime().await;
    assert_eq!(named(&plain, None, Vec::new()).await, "container");
    let config = RuntimeConfig { network: Network::Open, ..RuntimeConfig::new(machine.home.path()) };
    let open = machine.runtime_with(config.clone()).await;
    // The same as is taken when a sandbox is made.
    assert_eq!(chosen(&open, CreateRequest::default()).await.0, "kernel");
    assert_eq!(named(&open, None, Vec::new()).await, "kernel");
    assert_eq!(open.provider_for("auto").await.unwrap().info().name, "kernel");
    assert_eq!(named(&open, None, vec![Feature::LimitMemory]).await, "kernel");
    assert_eq!(named(&open, None, vec![Feature::NetworkNone]).await, "container", "it was said");
    let on_host = machine.runtime_with(RuntimeConfig { image: Some("host".into()), ..config }).await;
    assert_eq!(named(&on_host, None, Vec::new()).await, "machine");
}

#[tokio::test]
async fn a_runtime_may_meet_a_floor_also_for_who_only_asks() {
    let machine = Machine::new();
    let runtime = machine.runtime().await;
    let floor = Some(Isolation::UserKernel);
    let with = async |word: &str| runtime.provider_with(floor, None, Vec::new(), Some(word.to_owned())).await;
    assert_eq!(with("strong").await.unwrap().info().name, "container");
    let spec = SandboxSpec { runtime: Some("strong".into()), ..SandboxSpec::default() };
    let request = CreateRequest { isolation: floor, spec, ..CreateRequest::default() };
    assert_eq!(chosen(&runtime, request).await.0, "container");
    let refused = with("weak").await.err().unwrap();
    assert!(refused.message().contains("container has only namespaces"), "{refused}");
    // Who has no runtimes within it is passed over.
    let without = Fake::features().without(Feature::Runtime);
    let machine = Machine::new().with("container", Isolation::Namespaces, without, None).with(
        "kernel",
        Isolation::UserKernel,
        Fake::features(),
        None,
    );
    let found = machine.runtime().await.provider_with(None, None, Vec::new(), Some("strong".into())).await.unwrap();
    assert_eq!(found.info().name, "kernel");
}

#[tokio::test]
async fn one_that_cannot_make_a_sandbox_is_tried_anew_whoever_named_it() {
    let machine = Machine::new();
    let fake = Fake::default();
    let kernel = Posing { fake: fake.clone(), name: "kernel", isolation: Isolation::UserKernel, features: Fake::features(), missing: None };
    let claim = Claim { provider: "kernel", features: Fake::features() };
    let registry = machine.registry.clone().with(claim, Isolation::UserKernel, kernel);
    let runtime = Runtime::open_with(RuntimeConfig::new(machine.home.path()), registry).await.unwrap();
    let floor = || CreateRequest { isolation: Some(Isolation::UserKernel), ..CreateRequest::default() };
    for request in [floor(), CreateRequest { provider: Some("kernel".into()), ..CreateRequest::default() }] {
        // What was found is remembered, though it would be found otherwise now.
        assert_eq!(chosen(&runtime, floor()).await.0, "kernel");
        fake.failing().extend(["probe", "provision"]);
        assert_eq!(runtime.create(request).await.unwrap_err().message(), "provision fails");
        let error = runtime.create(floor()).await.unwrap_err();
        assert!(error.message().contains("kernel: no folders here"), "{error}");
        fake.failing().clear();
    }
}

#[tokio::test]
async fn where_nothing_will_do_each_provider_is_told_with_what_it_lacks() {
    let machine = Machine::new()
        .with("kernel", Isolation::UserKernel, Fake::features(), Some("runsc"))
        .with("machine", Isolation::Vm, Fake::features().without(Feature::NetworkOpen), None)
        .with("dangerous-host", Isolation::None, Fake::features(), None);
    let spec = SandboxSpec { network: Network::Open, ..with_disk().spec };
    let request = CreateRequest { spec, isolation: Some(Isolation::Namespaces), ..CreateRequest::default() };
    let runtime = machine.runtime().await;
    let error = runtime.create(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    for told in [
        "container does not have limit-disk here",
        "kernel: runsc is missing",
        "machine does not have network-open here",
        "dangerous-host is no wall",
        "isolation namespaces or stronger",
    ] {
        assert!(error.message().contains(told), "{error}");
    }
    assert_eq!(error.hint(), Some("kernel: install runsc"));
    assert!(runtime.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_fork_stays_with_its_checkpoints_provider_unless_one_is_named() {
    let machine = Machine::new().with("kernel", Isolation::UserKernel, Fake::features(), None);
    let runtime = machine.runtime().await;
    let origin = CreateRequest { provider: Some("kernel".into()), name: Some("web".into()), ..CreateRequest::default() };
    runtime.create(origin).await.unwrap();
    for (asked, expected) in [(None, "kernel"), (Some("auto"), "kernel"), (Some("container"), "container")] {
        let options = ForkOptions { provider: asked.map(ToOwned::to_owned), ..ForkOptions::default() };
        let forks = runtime.fork("web", 1, options).await.unwrap();
        assert_eq!(forks[0].summary().await.unwrap().provider, expected);
    }
}

#[tokio::test]
async fn a_build_without_walls_names_the_way_to_another_host() {
    let home = tempfile::tempdir().unwrap();
    let runtime = Runtime::open_with(RuntimeConfig::new(home.path()), Registry::default()).await.unwrap();
    let error = runtime.create(CreateRequest::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint().is_some_and(|hint| hint.contains("--on ssh://") && hint.contains("context")), "{error}");
}
