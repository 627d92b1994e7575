# Lua VMs that are created and closed with reloads, requests, threads, timers and processes: nothing of a
# closed VM is left.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Lua qw(anonymous checked lua_of run);
use Test::Memstat::LuaHeap qw(heaps);

use constant MB => 1048576;

# A location that runs the code in a request.
use constant RUN => 'include $TEST_NGINX_TESTS/run_by_lua.conf;';

# Starts a server whose worker runs the code in a request.
sub server {
    my (%sections) = @_;
    $sections{config} = RUN . ($sections{config} // '');
    return Test::Memstat::Server->new(%sections)->start;
}

run_tests();

__DATA__

=== TEST 1: loaded before or after
--- config
location /x { content_by_lua_block { } }
--- perl
for my $module (qw(first last)) {
    my $t = server(module => $module, http_config => 'init_by_lua_block { data = {} for i = 1, 1000 do data[i] = { i } end }');
    for (1 .. 3) {
        my ($lua) = checked($t, $module);
        my $blocks = $lua->{allocations} - $lua->{frees};
        cmp_ok $blocks, '>', 1000, 'counted from its birth';
        cmp_ok $lua->{frees}, '>', 0, 'with what it gave back meanwhile';
        $t->reload;
    }
}

=== TEST 2: the master does not grow over reloads
--- config
location /x { content_by_lua_block { } }
--- perl
my $http = 'init_by_lua_block { data = {} for i = 1, 50000 do data[i] = { tostring(i) } end }';
my %grown;
for my $with (1, 0) {
    my $t = Test::Memstat::Server->new(module => $with ? 'first' : 0, http_config => $http,
        config => $with ? RUN : 'location /x { content_by_lua_block { } }')->start;
    if ($with) {
        my ($lua) = checked($t, 'data');
        cmp_ok $lua->{allocated_bytes}, '>', 5 * MB, '5 MB of Lua data';
    }
    $t->reload for 1 .. 5;
    my %before = proc_status($t->master);
    $t->reload for 1 .. 100;
    my %after = proc_status($t->master);
    $grown{$with}{$_} = $after{$_} - $before{$_} for qw(VmRSS VmSize);
    checked($t, 'after a hundred') if $with;
    is_deeply [ $t->stop ], [], 'ends as told';
}
for my $figure (qw(VmRSS VmSize)) {
    cmp_ok $grown{1}{$figure}, '<=', $grown{0}{$figure} + 0.5 * MB,
        "$figure: $grown{1}{$figure} with, $grown{0}{$figure} without";
}

=== TEST 3: a VM a request
--- error_log
lua_code_cache is off
--- config
lua_code_cache off;
location /memstat { memstat; }
# Works until the test creates the file.
location /work {
    content_by_lua_block {
        local t = {} for i = 1, 1000 do t[i] = { i } end
        while not io.open(ngx.var.document_root .. "/" .. ngx.var.args) do ngx.sleep(0.01) end
        ngx.print(#t)
    }
}
--- perl
my $release = sub { open my $file, '>', $t->root . "/html/$_[0]" or die "cannot write: $!\n" };
$release->('first');
$t->get('/work?first');
my $before = lua_of(process_with($t->fresh, kind => 'worker'));
my $requests = 0;
my $highest = 0;
for my $round (1 .. 10) {
    my @clients = map { $t->connect->send(GET => "/work?$round") } 1 .. 32;
    my ($process) = process_with($t->fresh, kind => 'worker');
    my $vms = lua_of($process)->{vms};
    $highest = $vms if $vms > $highest;
    # While VMs are created and closed, mappings may change between two slices of a snapshot.
    is_deeply [ grep { !/changed between the readings/ } @{ $process->{notes} } ], [],
        "round $round: no notes";
    is lua_of($process)->{allocated_bytes}, lua_of($process)->{gc_bytes}, "round $round: as Lua counts";
    isnt lua_of($process)->{reserved}, undef, "round $round: their memory is known";
    $t->wait_for('all have one', sub { lua_of(process_with($t->fresh, kind => 'worker'))->{vms} == 33 });
    $release->($round);
    for (@clients) {
        my $answer = $_->receive;
        $requests++ if $answer->{body} eq '1000';
        $_->close;
    }
}
is $requests, 320, 'all were served';
cmp_ok $highest, '<=', 33, 'no more than requests and one';
$t->wait_for('the VMs are gone', sub { lua_of(process_with($t->fresh, kind => 'worker'))->{vms} == 1 });
my ($process) = process_with($t->fresh, kind => 'worker');
my $after = lua_of($process);
is $after->{allocated_bytes}, $before->{allocated_bytes}, 'only the one of the configuration is left';
cmp_ok $after->{allocations} - $before->{allocations}, '>=', 320 * 1000, 'the work is counted';
is $after->{allocations} - $before->{allocations}, $after->{frees} - $before->{frees}, 'and its end';
is_deeply $process->{notes}, [], 'each ended with the count that Lua had';

=== TEST 4: VMs on threads
--- main_config
thread_pool workers threads=4;
--- http_config
lua_package_path "$TEST_NGINX_SERVER_ROOT/html/?.lua;;";
lua_worker_thread_vm_pool_size 8;
--- user_files
>>> task.lua
return { work = function(n) local t = {} for i = 1, n do t[i] = { i, tostring(i) } end return #t end }
--- config
location /memstat { memstat; }
location /work {
    content_by_lua_block {
        local ok, n = ngx.run_worker_thread("workers", "task", "work", 50000)
        ngx.print(ok, " ", n)
    }
}
--- perl
my ($worker) = $t->workers;
for my $round (1 .. 5) {
    my @clients = map { $t->connect->send(GET => '/work') } 1 .. 4;
    for (1 .. 10) {
        my ($process) = process_with($t->fresh, kind => 'worker');
        my $lua = lua_of($process);
        is $lua->{allocated_bytes}, $lua->{gc_bytes}, 'as counted' if $lua->{vms} == 1;
        cmp_ok $lua->{vms}, '<=', 9, 'VMs';
        is sum(map { $_->{resident} // 0 } values %{ $process->{breakdown} }), $process->{system}{resident}, 'the sum closes';
    }
    is $_->receive->{body}, 'true 50000', "round $round" for @clients;
    $_->close for @clients;
}
my ($process) = process_with($t->fresh, kind => 'worker');
my $lua = lua_of($process);
cmp_ok $lua->{vms}, '>', 1, 'VMs of threads are kept';
is_deeply $process->{notes}, [], 'at rest all is known';
is $lua->{reserved}, $lua->{allocated_bytes} + $lua->{overhead_bytes} + $lua->{free_bytes}, 'and adds up';
my @heaps = heaps($worker);
is scalar @heaps, $lua->{vms}, 'as many heaps';
is sum(map { $_->{segments}{bytes} } @heaps), $lua->{segments}{bytes}, 'of as many bytes';
is sum(map { $_->{free} } @heaps), $lua->{free_bytes}, 'with as many free';

=== TEST 5: timers of init_worker
--- http_config
init_worker_by_lua_block {
    ticks = 0
    ngx.timer.every(0.01, function() ticks = ticks + 1 local t = {} for i = 1, 100 do t[i] = {} end end)
}
--- config
include $TEST_NGINX_TESTS/run_by_lua.conf;
--- perl
my ($first) = checked($t, 'begun');
$t->wait_for('ticks', sub { $t->request(POST => '/run', body => 'return ticks')->{body} > 20 });
my ($later) = checked($t, 'later');
cmp_ok $later->{allocations} - $first->{allocations}, '>', 1000, 'what timers do is counted';

=== TEST 6: os.exit in Lua
--- config
include $TEST_NGINX_TESTS/run_by_lua.conf;
--- error_log
worker process \d+ exited
--- perl
for my $how ('os.exit(0)', 'os.exit(0, true)') {
    my ($worker) = $t->workers;
    checked($t, 'before');
    eval { $t->request(POST => '/run', body => "local t = {} for i = 1, 10000 do t[i] = {} end $how") };
    $t->successor_of($worker);
    $t->wait_for('it answers', sub { active_workers($t->fresh) });
    checked($t, 'the next one');
    unlike $t->error_log, qr/exited on signal/, 'no signal';
}

=== TEST 7: cache processes end their VMs
--- main_config
stream {
    init_by_lua "data = string.rep('x', 8e6)";
    server { listen 127.0.0.1:$TEST_NGINX_PORT_1; return ok; }
}
--- http_config
proxy_cache_path $TEST_NGINX_SERVER_ROOT/cache keys_zone=c:1m;
init_by_lua_block { data = string.rep("x", 9e6) }
--- config
include $TEST_NGINX_TESTS/run_by_lua.conf;
--- perl
my $process;
$t->wait_for('the cache manager answers', sub { ($process) = process_with($t->fresh, kind => 'cache_manager'); $process && $process->{lua} });
is $process->{lua}[$_]{vms}, 0, 'no VM' for 0, 1;
is $process->{lua}[$_]{allocations}, $process->{lua}[$_]{frees}, 'all is given back' for 0, 1;
is_deeply $process->{notes}, [], 'no notes';
is scalar heaps($process->{pid}), 0, 'no heap is left';
cmp_ok anonymous($process->{pid}), '<', 4 * MB, 'nor the data';

=== TEST 8: a reload that fails leaves no hook
--- config
location /x { content_by_lua_block { ngx.print("x") } }
--- error_log
unknown directive "nonsense"
--- perl
my $with = 'location /memstat { memstat; } location /x { content_by_lua_block { ngx.print("x") } }';
$t->write_conf(config => $with, main_config => '');
my $conf = read_file($t->conf_path);
open my $file, '>', $t->conf_path or die;
print $file "$conf\nnonsense;\n";
close $file;
for (1 .. 3) {
    my $seen = () = $t->error_log =~ /nonsense/g;
    $t->signal('HUP');
    $t->wait_for('it fails', sub { my $now = () = $t->error_log =~ /nonsense/g; $now > $seen });
}
is $t->get('/x')->{body}, 'x', 'the worker goes on';
$t->reload(config => $with);
checked($t, 'a good one');
