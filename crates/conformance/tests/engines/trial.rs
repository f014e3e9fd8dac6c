//! A fact that needs something which may be missing: it is ignored with the reason then, and fails where that is required.

use libtest_mimic::{Completion, Failed, Trial};

/// `required` is the name in `SANDBAR_REQUIRE` that asks for it.
pub fn trial<World: 'static>(
    name: &str,
    required: &'static str,
    world: impl FnOnce() -> Result<World, String> + Send + 'static,
    body: impl FnOnce(World) + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || {
        let is_required = std::env::var("SANDBAR_REQUIRE").is_ok_and(|names| names.split(',').any(|name| name == required));
        match world() {
            Ok(world) => {
                body(world);
                Ok(Completion::Completed)
            }
            Err(reason) if is_required => Err(Failed::from(format!("SANDBAR_REQUIRE asks for {required}: {reason}"))),
            Err(reason) => Ok(Completion::ignored_with(reason)),
        }
    })
}
