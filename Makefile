# Builds, demonstrates and tests ngx_http_memstat_module. `make help` lists the targets.

# The folder of the built module, and the folder of intermediate files.
OBJS  ?= objs
BUILD ?= build
CARGO ?= cargo
export CARGO_TARGET_DIR ?= target

# The port of the demo; the tests to run, and how many at a time; the seconds that `make soak` runs.
PORT  ?= 8080
TESTS ?= t
JOBS  ?= 1
SECONDS ?= 600

MODULE = $(OBJS)/ngx_http_memstat_module.so

# The module is built for the nginx in NGINX_SOURCE_DIR / NGINX_BUILD_DIR, or else for the installed one.
ifeq ($(NGINX_SOURCE_DIR)$(NGINX_BUILD_DIR),)
INSTALLED     = yes
NGINX_BINARY ?= /usr/sbin/nginx
TREE          = $(abspath $(BUILD)/nginx)
WITH_TREE     = NGINX_SOURCE_DIR='$(TREE)' NGINX_BUILD_DIR='$(TREE)/objs'
else
NGINX_BINARY ?= $(or $(wildcard $(or $(NGINX_BUILD_DIR),$(NGINX_SOURCE_DIR)/objs)/nginx),/usr/sbin/nginx)
endif

CASES   = $(patsubst %.conf,%,$(filter-out cases/folders.conf,$(wildcard cases/*.conf)))
IN_CASE = TEST_NGINX_WITHOUT_LUA='$(TEST_NGINX_WITHOUT_LUA)' TEST_NGINX_BINARY='$(NGINX_BINARY)' TEST_NGINX_MODULE='$(abspath $(MODULE))'

# The second nginx that is built and tested: a current version, with --with-debug, and with a module
# linked in that has a Lua VM.
CURRENT       = $(abspath $(BUILD)/nginx-current)
# The tests that depend on nginx's core, build and modules. The others test the same code on any nginx:
# `make matrix` runs all of t/ on the current version.
CURRENT_TESTS = $(patsubst %,t/%.t,answer conf first install layout lifecycle lua_stream master methods names \
	pools pools_by pools_creators processes product reload targets)
CURRENT_FLAGS = --with-compat --with-debug --with-poll_module --with-select_module --with-threads \
	--with-stream --with-http_v2_module --with-http_ssl_module \
	--with-http_stub_status_module --add-module='$(abspath t/modules/stream_lua)'

.PHONY: help run stop case guide build install uninstall deb test unit integration current matrix soak bench sanitize check clean tree

help: ## list the targets (the default)
	@awk -F ': .*## |: ## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

run: ## build, start a demo on 127.0.0.1:PORT (8080), and print where its memory goes
ifndef INSTALLED
	$(error the demo is for the installed nginx: unset NGINX_SOURCE_DIR and NGINX_BUILD_DIR)
endif
	@tools/need-rust
	@PORT='$(PORT)' tools/demo check '$(BUILD)/demo'
	@tools/install-packages bindings build run
	@$(MAKE) --no-print-directory build
	@NGINX_BINARY='$(NGINX_BINARY)' MODULE='$(MODULE)' PORT='$(PORT)' tools/demo start '$(BUILD)/demo'

stop: ## stop the demo
	@tools/demo stop '$(BUILD)/demo'

case: ## run a case of doc/diagnosis.md (CASE=name); without CASE, list the cases
ifndef CASE
	@awk 'FNR == 2 { sub(/^# /, ""); sub(".*/", "", FILENAME); printf "make case CASE=%-20s %s\n", FILENAME, $$0 }' $(CASES)
else
	@[ -f 'cases/$(CASE).conf' ] || { echo "there is no case '$(CASE)': 'make case' lists them" >&2; exit 1; }
	@tools/install-packages bindings $(if $(INSTALLED),build) case >&2
	@$(MAKE) --no-print-directory build >&2
	@$(IN_CASE) perl 'cases/$(CASE)'
endif

guide: ## run all cases, and insert their output into doc/diagnosis.md
	@tools/install-packages bindings $(if $(INSTALLED),build) case
	@$(MAKE) --no-print-directory build
	@$(IN_CASE) tools/guide doc/diagnosis.md $(CASES)

build: tree ## build OBJS/ngx_http_memstat_module.so (OBJS=objs), a release build
	@$(WITH_TREE) CARGO='$(CARGO)' tools/build-module '$(MODULE)'

install: ## install the built module for the nginx in NGINX_BINARY, below DESTDIR if that is set
	@NGINX_BINARY='$(NGINX_BINARY)' MODULE='$(MODULE)' DESTDIR='$(DESTDIR)' tools/install install

uninstall: ## remove the installed files, except those that were changed since
	@NGINX_BINARY='$(NGINX_BINARY)' MODULE='$(MODULE)' DESTDIR='$(DESTDIR)' tools/install uninstall

deb: ## build a package for the distribution's nginx: BUILD/deb/libnginx-mod-http-memstat_*.deb
ifndef INSTALLED
	$(error the package is for the installed nginx: unset NGINX_SOURCE_DIR and NGINX_BUILD_DIR)
endif
	@tools/install-packages bindings build deb
	@CARGO='$(CARGO)' tools/build-deb '$(BUILD)/deb'

test: unit integration current ## run the unit tests, then the integration tests on both nginx

unit: ## run the unit tests, which need no nginx
	$(CARGO) test --locked --no-default-features

integration: ## build, and run the integration tests (TESTS=t/some.t JOBS=1)
	@tools/install-packages bindings $(if $(INSTALLED),build deb) test
	@$(MAKE) --no-print-directory build
	$(WITH_TREE) TEST_NGINX_WITHOUT_LUA='$(TEST_NGINX_WITHOUT_LUA)' TEST_NGINX_BINARY='$(NGINX_BINARY)' TEST_NGINX_MODULE='$(abspath $(MODULE))' \
		prove -It/lib -j$(JOBS) -r $(TESTS)

current: ## build a current nginx and the module for it, run the tests of its core there (TESTS='t/*.t': all)
	@tools/install-packages bindings test current
	@CARGO='$(CARGO)' tools/build-nginx '$(CURRENT)' $(CURRENT_FLAGS)
	@$(MAKE) --no-print-directory integration NGINX_SOURCE_DIR='$(CURRENT)' NGINX_BUILD_DIR='$(CURRENT)/objs' \
		OBJS='$(CURRENT)/modules' TESTS='$(if $(filter-out t,$(TESTS)),$(TESTS),$(CURRENT_TESTS))' \
		TEST_NGINX_WITHOUT_LUA=1

matrix: ## build nginx with many configurations, and build and test the module for each (NAMES=plain: one)
	@tools/install-packages bindings test current
	@CARGO='$(CARGO)' TESTS='$(if $(filter-out t,$(TESTS)),$(TESTS))' tools/matrix '$(BUILD)/matrix' $(NAMES)
ifndef NAMES
	@$(MAKE) --no-print-directory current TESTS='$(if $(filter-out t,$(TESTS)),$(TESTS),t/*.t)'
endif

soak: ## check that memory stays flat under load, reloads and killed workers for SECONDS (600)
	@tools/install-packages bindings $(if $(INSTALLED),build) test
	@$(MAKE) --no-print-directory build
	$(WITH_TREE) TEST_NGINX_BINARY='$(NGINX_BINARY)' TEST_NGINX_MODULE='$(abspath $(MODULE))' \
		tools/soak $(SECONDS)

bench: ## measure the module's cost and write BENCHMARKS.md (PARTS="instructions memory": only print these)
	@tools/install-packages bindings $(if $(INSTALLED),build) test bench >&2
	@$(MAKE) --no-print-directory build >&2
	@$(WITH_TREE) TEST_NGINX_BINARY='$(NGINX_BINARY)' TEST_NGINX_MODULE='$(abspath $(MODULE))' \
		BENCH_PLOTS='$(if $(PARTS)$(BENCH_QUICK),$(BUILD)/bench,doc/bench)' bench/run $(PARTS) \
		$(if $(PARTS)$(BENCH_QUICK),,>'$(BUILD)/BENCHMARKS.md' && mv '$(BUILD)/BENCHMARKS.md' BENCHMARKS.md)

sanitize: ## run the unit tests under AddressSanitizer, except those of parts that it replaces: allocators, threads
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0 \
		CARGO_TARGET_DIR='$(CARGO_TARGET_DIR)/sanitize' $(CARGO) test --locked --no-default-features \
		--target "$$(rustc -vV | sed -n 's/^host: //p')" -- \
		--skip hook::thread --skip probe::heap --skip hook::imports::tests::the_objects

check: tree ## check the format, the lints (with and without nginx), the direction of imports and the names of types
	tools/floors
	tools/names
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --no-default-features -- -D warnings
	$(WITH_TREE) $(CARGO) clippy --locked --all-targets -- -D warnings

clean: stop ## remove everything that was built
	$(CARGO) clean
	rm -rf '$(BUILD)/demo' '$(BUILD)/nginx' '$(BUILD)/deb' '$(BUILD)/matrix' '$(CURRENT)' '$(MODULE)'

# Prepares the source tree of the installed nginx.
tree:
	@[ "$$(uname -s)" = Linux ] || { echo "the module is for Linux, not for $$(uname -s)" >&2; exit 1; }
	@tools/install-packages bindings $(if $(INSTALLED),build)
	$(if $(INSTALLED),@tools/configure-nginx '$(NGINX_BINARY)' '$(TREE)')
