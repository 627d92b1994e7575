# Lua VMs: their counts, and where their memory is.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Lua qw(anonymous checked lua_of mcode run);
use Test::Memstat::LuaHeap qw(direct_mappings heaps);

use constant MB => 1048576;

# A location that runs the code in a request.
use constant RUN => 'include $TEST_NGINX_TESTS/run_by_lua.conf;';

run_tests();

__DATA__

=== TEST 1: an nginx without Lua has no VMs
--- config
location /memstat { memstat; }
--- perl
plan skip_all => 'LuaJIT is linked with nginx' if grep { $_->{path} =~ /luajit/ } maps(($t->workers)[0]);
my ($process) = process_with($t->fresh, kind => 'worker');
is_deeply $process->{lua}, [], 'no VM';
is $process->{hooks}{lua}, 'off: no LuaJIT is loaded', 'and it says why';
is_deeply [ grep { /lua/ } keys %{ $process->{breakdown} } ], [], 'no entry';

=== TEST 2: allocated is what Lua counts, whatever is done
--- config
include $TEST_NGINX_TESTS/run_by_lua.conf;
--- perl
for my $jit (qw(on off)) {
    run($t, "jit.$jit() return jit.status()");
    my ($before) = checked($t, "jit $jit");
    my %done = (
        strings    => 'local s = {} for i = 1, 20000 do s[i] = "x" .. i .. string.rep("y", i % 300) end return table.concat(s):len()',
        tables     => 'kept = {} for i = 1, 50000 do kept[i] = { i, tostring(i), k = { i } } end return #kept',
        ffi        => 'local ffi = require "ffi" blocks = {} for i = 1, 10 do blocks[i] = ffi.new("char[?]", 1048576) end return #blocks',
        coroutines => 'threads = {} for i = 1, 2000 do local c = coroutine.create(function(...) coroutine.yield(...) end) coroutine.resume(c, i) threads[i] = c end return #threads',
        resizes    => 'local b = "" for i = 1, 300 do b = b .. string.rep("z", 1000) end local t = {} for i = 1, 300000 do t[i] = i end return #b + #t',
        collection => 'kept, blocks, threads = nil, nil, nil collectgarbage() collectgarbage() return 1',
    );
    for my $name (qw(strings tables ffi coroutines resizes collection)) {
        my ($old) = checked($t, "jit $jit, before $name");
        run($t, $done{$name});
        my ($lua) = checked($t, "jit $jit, $name");
        cmp_ok $lua->{allocations}, '>', $old->{allocations}, "$name: blocks were given" if $name ne 'collection';
        cmp_ok $lua->{frees}, '>', $old->{frees}, 'blocks were given back' if $name eq 'collection';
        if ($name eq 'ffi') {
            is $lua->{sizes}{larger} - ($old->{sizes}{larger} // 0), 10, 'ten of more than 1 MiB';
            near $lua->{allocated_bytes} - $old->{allocated_bytes}, 10 * MB, 0.2 * MB, 'ten megabytes';
        }
        if ($name eq 'collection') {
            cmp_ok $lua->{direct}{bytes}, '<', MB, 'the large blocks are gone';
            near $lua->{allocated_bytes}, $before->{allocated_bytes}, 0.5 * MB, 'as before';
        }
        my $said = run($t, 'return collectgarbage("count") * 1024');
        near +(checked($t, "$name, said"))[0]{allocated_bytes}, $said, 65536, "$name: as Lua says";
    }
}

=== TEST 3: the footprint is what the process grew by
--- config
include $TEST_NGINX_TESTS/run_by_lua.conf;
--- perl
my ($worker) = $t->workers;
run($t, 'jit.off() return 1');
checked($t, 'warm') for 1 .. 3;
my ($lua, $process) = checked($t, 'before');
my $others = anonymous($worker) - $lua->{reserved} - mcode($process);
my $code = sub { sum(map { $_->{size} } grep { $_->{rights} eq 'r-xp' && $_->{path} eq '' } maps($worker)) };
my $other_code = $code->() - mcode($process);
for my $code (
    'kept = {} for i = 1, 100000 do kept[i] = { i } end return 1',
    'blocks = {} for i = 1, 20 do blocks[i] = string.rep("x", 1048576) .. i end return 1',
    'for i = 1, #blocks, 2 do blocks[i] = nil end collectgarbage() return 1',
    'kept = nil collectgarbage() collectgarbage() return 1',
    'jit.on() local n = 0 for i = 1, 1e6 do n = n + i % 7 end return n',
    )
{
    run($t, $code);
    ($lua, $process) = checked($t, 'grown');
    is $lua->{reserved} + mcode($process) + $others, anonymous($worker), 'from outside the same';
}
cmp_ok mcode($process), '>', 0, 'there is machine code';
is mcode($process) + $other_code, $code->(), 'as much as the kernel has';

=== TEST 4: why a VM that was large stays large
--- config
include $TEST_NGINX_TESTS/run_by_lua.conf;
--- perl
my ($worker) = $t->workers;
my ($empty) = checked($t, 'empty');
run($t, 'kept = {} for i = 1, 800000 do kept[i] = { i, i } end return collectgarbage("count")');
my ($full) = checked($t, 'full');
cmp_ok $full->{allocated_bytes}, '>', 50 * MB, '50 MB of tables';
# One value in a thousand keeps the segments alive.
run($t, 'for i = 1, #kept do if i % 1000 ~= 0 then kept[i] = false end end collectgarbage() collectgarbage() return 1');
my ($dropped, $process) = checked($t, 'dropped');
cmp_ok $dropped->{gc_bytes}, '<', 0.4 * $full->{gc_bytes}, 'Lua counts little';
cmp_ok $dropped->{reserved}, '>', 0.7 * $full->{reserved}, 'but the process has it still';
cmp_ok $dropped->{free_bytes}, '>', $dropped->{reserved} - 1.5 * $dropped->{allocated_bytes},
    'which is free for reuse';
cmp_ok $dropped->{free_bytes}, '<', $dropped->{reserved}, 'part of it';
is $dropped->{peak_bytes} >= $full->{allocated_bytes}, 1, 'the peak is remembered';
near $process->{breakdown}{http_luajit}{resident}, $dropped->{resident}, 0, 'resident';
cmp_ok $dropped->{resident}, '>', 0.5 * $dropped->{reserved}, 'most of it in RAM';
cmp_ok $process->{breakdown}{anon_other}{resident}, '<', 2 * MB, 'little is left unexplained';

run($t, 'kept = nil collectgarbage() collectgarbage() return 1');
my ($last) = checked($t, 'all dropped');
cmp_ok $last->{gc_bytes}, '<', 2 * $empty->{gc_bytes}, 'nothing left';
cmp_ok $last->{reserved}, '<', 0.5 * $full->{reserved}, 'LuaJIT has given segments back';

=== TEST 5: the figures of the allocator, by a walk through its memory from outside
--- config
include $TEST_NGINX_TESTS/run_by_lua.conf;
--- perl
my ($worker) = $t->workers;
for my $code (
    'return 1',
    'kept = {} for i = 1, 30000 do kept[i] = { tostring(i) } end return 1',
    'for i = 1, #kept, 3 do kept[i] = false end collectgarbage() return 1',
    'big = string.rep("x", 3e6) more = string.rep("y", 200000) return 1',
    )
{
    run($t, $code);
    my ($lua) = checked($t, 'now');
    my @heaps = heaps($worker);
    is scalar @heaps, 1, 'one heap';
    my $heap = $heaps[0];
    is_deeply {
        segments => $lua->{segments}, free => $lua->{free_bytes}, largest => $lua->{largest_free},
        blocks => $lua->{allocations} - $lua->{frees} - $lua->{direct}{count},
    }, $heap, 'the same';
}

=== TEST 6: a collector that a person can act on
--- config
include $TEST_NGINX_TESTS/run_by_lua.conf;
--- perl
my ($lua) = checked($t, 'begun');
is_deeply $lua->{gc}, { running => JSON::PP::true, pause => 200, stepmul => 200, gc64 => JSON::PP::true,
    limit_bytes => undef }, 'as LuaJIT begins';
run($t, 'collectgarbage("setpause", 150) collectgarbage("setstepmul", 321) collectgarbage("stop") return 1');
($lua) = checked($t, 'set');
is_deeply [ @{ $lua->{gc} }{qw(running pause stepmul)} ], [ JSON::PP::false, 150, 321 ], 'as it was set';
is run($t, 'local p, s = collectgarbage("setpause", 200), collectgarbage("setstepmul", 200) return p .. " " .. s'),
    '150 321', 'asking changes nothing';
like $t->get('/memstat?format=text&fields=processes.lua')->{body}, qr/Lua VMs.*Garbage collector of http in worker 0: stopped/s, 'as text';

=== TEST 7: off
--- http_config
memstat_hooks thread;
--- config
include $TEST_NGINX_TESTS/run_by_lua.conf;
--- perl
my ($process) = process_with($t->fresh, kind => 'worker');
is $process->{hooks}{lua}, 'off: not among memstat_hooks', 'off';
is $process->{lua}, undef, 'nothing is known';
is_deeply [ grep { /_luajit/ } keys %{ $process->{breakdown} } ], [], 'no entry';
# memstat_hooks outside of http {}, after it: nginx reads it after the VM was created.
my $main = Test::Memstat::Server->new(config => RUN, main_config => '')->start;
for my $times (1 .. 2) {
    $main->write_conf;
    my $conf = read_file($main->conf_path);
    open my $file, '>', $main->conf_path or die;
    print $file "$conf\nmemstat_hooks thread;\n";
    close $file;
    my @old = $main->workers;
    $main->signal('HUP');
    $main->wait_for('new workers', sub { my @new = $main->workers; @new == 1 && $new[0] != $old[0] });
    my ($worker) = active_workers($main->fresh);
    is $worker->{lua}, undef, 'nothing is known';
    $main->reload;
    checked($main, 'on again');
}

=== TEST 8: no location, no hook
--- http_config
init_by_lua_block { data = string.rep("x", 1e6) }
--- config
location /x { content_by_lua_block { ngx.print(ngx.worker.pid()) } }
--- perl
# The pointers in the object of the Lua module are the same as without this module.
my $got = sub {
    my ($pid) = @_;
    my @maps = maps($pid);
    my ($object) = grep { /ngx_http_lua_module/ } map { $_->{path} } @maps;
    $object //= readlink "/proc/$pid/exe";
    my $bytes = '';
    open my $mem, '<:raw', "/proc/$pid/mem" or die "$!";
    for my $map (grep { $_->{path} eq $object && $_->{rights} !~ /x/ } @maps) {
        sysseek $mem, $map->{from}, 0;
        sysread $mem, $bytes, $map->{size}, length $bytes;
    }
    my %ours = map { ($_->{from}, $_) } grep { $_->{path} =~ /memstat_module/ } maps($pid);
    my @words = unpack 'Q<*', $bytes;
    return scalar grep { my $word = $_; grep { $word >= $_->{from} && $word < $_->{to} } values %ours } @words;
};
is $got->(($t->workers)[0]), 0, 'no slot leads here';
$t->reload(config => 'location /memstat { memstat; } location /x { content_by_lua_block { } }');
cmp_ok $got->(($t->workers)[0]), '>=', 2, 'with a location two do';
checked($t, 'with');
$t->reload(config => 'location /x { content_by_lua_block { } }');
is $got->(($t->workers)[0]), 0, 'without none again';

=== TEST 9: a VM out of memory
--- config
include $TEST_NGINX_TESTS/run_by_lua.conf;
--- perl
my ($worker) = $t->workers;
checked($t, 'before');
my %status = proc_status($worker);
my $limit = $status{VmSize} + 40 * MB;
# The same as ulimit -v.
run($t, "local ffi = require 'ffi' ffi.cdef 'int setrlimit(int, unsigned long *);'"
    . " assert(ffi.C.setrlimit(9, ffi.new('unsigned long[2]', $limit, $limit)) == 0) return 1");
for my $code (
    'local t = {} for i = 1, 1e7 do t[i] = { i } end return "all"',
    'return #string.rep("x", 1e8)',
    'local t = {} for i = 1, 1e4 do t[i] = string.rep("x", 1e5) .. i end return "all"',
    )
{
    # Outside of pcall, ngx_lua ends its worker when memory is refused. So memory is freed before anything
    # else is allocated.
    my $body = run($t, "local ok, e = pcall(function() $code end) collectgarbage() return tostring(ok) .. e");
    is $body, 'falsenot enough memory', 'refused';
    my ($lua) = checked($t, 'after');
    cmp_ok $lua->{failures}, '>', 0, 'counted';
    cmp_ok $lua->{peak_bytes}, '<', $limit, 'never had more';
}
is_deeply [ $t->workers ], [$worker], 'the same worker';

=== TEST 10: a large buffer that shrinks, while its mapping stays
--- config
include $TEST_NGINX_TESTS/run_by_lua.conf;
--- perl
my ($worker) = $t->workers;
run($t, 'collectgarbage() collectgarbage("stop") return 1');
# The result and its buffer each get a mapping.
run($t, 'local t = {} for i = 1, 40 do t[i] = string.rep("x", 10000) .. i end return #table.concat(t)');
my $short = 0;
for my $round (1 .. 16) {
    my ($lua) = checked($t, "round $round");
    my @direct = direct_mappings($worker);
    is_deeply $lua->{direct}, { count => scalar @direct, bytes => sum(0, @direct) }, "round $round: mappings";
    my ($heap) = heaps($worker);
    is_deeply { segments => $lua->{segments}, free => $lua->{free_bytes}, largest => $lua->{largest_free},
        blocks => $lua->{allocations} - $lua->{frees} - $lua->{direct}{count} }, $heap, "round $round: heap";
    $short += grep { $_ < 131072 } @direct;
    # Each collection halves an unused buffer.
    run($t, 'collectgarbage() collectgarbage("stop") return 1');
}
cmp_ok $short, '>', 1, 'a mapping was made shorter than any that is new';
