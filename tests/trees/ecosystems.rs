//! Trees of package managers and compilers: published as directories, deployed, and started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::app::{App, Unit, text};
use crate::tool::{command, fixture, node_tool, tool};

/// A wheel of the package `greeter`.
fn wheel(app: &App) -> String {
    app.run(tool("python3", app.dir(), &[text(&fixture("python/wheel.py")), "."]));
    text(&app.dir().join("greeter-1.0.0-py3-none-any.whl")).to_owned()
}

#[test]
fn a_python_venv_runs_where_links_may_leave_the_release() {
    let app = App::open("venv", Unit::LinksAny);
    let tree = app.dir().join("app");
    app.run(tool("python3", app.dir(), &["-m", "venv", "app/venv"]));
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", &wheel(&app)];
    let python = tree.join("venv/bin/python");
    app.run(command(&python, &tree, &pip));

    // Its interpreter is outside, so publish and the unit must both be told to accept that.
    let refused = app.publish("refused", &[text(&tree)]);
    assert_eq!(refused.code, 1, "{refused}");
    for words in ["archive entry \"venv/bin/python", "leads out of the release", "`publish --links any`"] {
        assert!(refused.stderr.contains(words), "{words}: {refused}");
    }
    app.deploy_tree(&tree);
    assert_eq!(app.start("./venv/bin/python", &["-m", "greeter", "venv"]), "hello from venv\n");
    let prefix = app.start("./venv/bin/python", &["-c", "import sys; print(sys.prefix)"]);
    assert!(prefix.contains("/srv-links-any/current/"), "the modules are those of the release: {prefix}");
}

#[test]
fn a_unit_without_the_setting_refuses_a_link_that_publish_was_told_to_accept() {
    let app = App::open("links-inside", Unit::Usual);
    let tree = app.dir().join("app");
    fs::create_dir(&tree).unwrap();
    std::os::unix::fs::symlink("/usr/bin/env", tree.join("interpreter")).unwrap();
    let published = app.publish("tree", &["--links", "any", text(&tree)]);
    assert_eq!(published.code, 0, "{published}");
    let output = app.try_deploy("tree");
    assert_eq!(output.code, 4, "{output}");
    for words in ["\"interpreter\" is a symbolic link to \"/usr/bin/env\"", "links = \"any\""] {
        assert!(output.stdout.contains(words), "{words}: {output}");
    }
}

#[test]
fn modules_of_pip_install_target_are_imported() {
    let app = App::open("pip", Unit::Usual);
    let tree = app.dir().join("app");
    fs::create_dir(&tree).unwrap();
    let own = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"];
    app.run(tool("python3", &tree, &[&own[..], &["--no-index", "--target", "vendor", &wheel(&app)]].concat()));
    fs::write(
        tree.join("app.py"),
        "import sys\nsys.path.insert(0, 'vendor')\nimport greeter\nprint(greeter.greet('pip'))\n",
    )
    .unwrap();
    app.deploy_tree(&tree);
    assert_eq!(app.start("python3", &["app.py"]), "hello from pip\n");
}

/// A workspace of two packages: one of its own, linked into `node_modules`, and one from a tarball, with a program.
fn workspace(app: &App) -> PathBuf {
    let tree = app.dir().join("app");
    app.copy(&fixture("node/app"), &tree);
    app.run(tool("npm", &fixture("node/printer"), &["pack", "--silent", "--pack-destination", text(&tree)]));
    tree
}

fn node_app_runs(app: &App, tree: &Path, install: Command) {
    app.run(install);
    app.deploy_tree(tree);
    assert_eq!(app.start("node", &["app.js", "Node"]), "hello from Node\n");
    assert_eq!(app.start("./node_modules/.bin/print-line", &["a program"]), "a program\n");
    assert!(fs::symlink_metadata(app.current().join("node_modules/greeter")).unwrap().is_symlink());
}

#[test]
fn a_workspace_of_npm_runs() {
    let app = App::open("npm", Unit::Usual);
    let tree = workspace(&app);
    let install = tool("npm", &tree, &["install", "--offline", "--no-audit", "--no-fund", "--no-update-notifier"]);
    node_app_runs(&app, &tree, install);
}

#[test]
fn a_workspace_of_pnpm_runs() {
    let app = App::open("pnpm", Unit::Usual);
    let tree = workspace(&app);
    // On the same file system, so that pnpm makes hard links to files of its store.
    let store = app.dir().join("store");
    let install = node_tool("pnpm", &tree, &["install", "--offline", "--store-dir", text(&store)]);
    node_app_runs(&app, &tree, install);
}

#[test]
fn a_workspace_of_yarn_runs() {
    let app = App::open("yarn", Unit::Usual);
    let tree = workspace(&app);
    let install = node_tool("yarn", &tree, &["install", "--offline", "--no-progress", "--non-interactive"]);
    node_app_runs(&app, &tree, install);
}

#[test]
fn gems_that_bundler_installed_run() {
    let app = App::open("bundler", Unit::Usual);
    app.copy(&fixture("ruby/greeter"), &app.dir().join("greeter"));
    let (tree, gem) = (app.dir().join("app"), app.dir().join("greeter"));
    app.copy(&fixture("ruby/app"), &tree);
    fs::create_dir_all(tree.join("vendor/cache")).unwrap();
    app.run(tool(
        "gem",
        &gem,
        &["build", "--quiet", "--output", "../app/vendor/cache/greeter-1.0.0.gem", "greeter.gemspec"],
    ));
    app.run(tool("bundle", &tree, &["config", "set", "--local", "path", "vendor/bundle"]));
    app.run(tool("bundle", &tree, &["install", "--local"]));
    app.deploy_tree(&tree);
    assert_eq!(app.start("bundle", &["exec", "greet", "Bundler"]), "hello from Bundler\n");
}

#[test]
fn packages_that_composer_installed_run() {
    let app = App::open("composer", Unit::Usual);
    for part in ["app", "printer"] {
        app.copy(&fixture("php").join(part), &app.dir().join(part));
    }
    let tree = app.dir().join("app");
    app.run(tool("composer", &tree, &["install", "--no-interaction", "--no-progress"]));
    let link = tree.join("vendor/example/greeter");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "Composer links packages of the same tree");
    app.deploy_tree(&tree);
    assert_eq!(app.start("./vendor/bin/greet", &["Composer"]), "hello from Composer\n");
}

#[test]
fn a_go_program_runs() {
    let app = App::open("go", Unit::Usual);
    let tree = app.dir().join("app");
    fs::create_dir(&tree).unwrap();
    let mut build = tool("go", &fixture("go"), &["build", "-o", text(&tree.join("hello")), "."]);
    build.env("CGO_ENABLED", "0").env("GOPROXY", "off").env("GOFLAGS", "-buildvcs=false");
    app.run(build);
    app.deploy_tree(&tree);
    assert_eq!(app.start("./hello", &["Go"]), "hello from Go\n");
}

#[test]
fn a_jar_of_the_jdk_runs() {
    let app = App::open("jar", Unit::Usual);
    let tree = app.dir().join("app");
    fs::create_dir(&tree).unwrap();
    app.run(tool("javac", app.dir(), &["-d", "classes", text(&fixture("java/Hello.java"))]));
    let pack = ["--create", "--file", "app/hello.jar", "--main-class", "Hello", "-C", "classes", "."];
    app.run(tool("jar", app.dir(), &pack));
    app.deploy_tree(&tree);
    assert_eq!(app.start("java", &["-jar", "hello.jar", "the JDK"]), "hello from the JDK\n");
}
