# The memory of the server: pages that several processes map count once, as in the kernel's Pss.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use constant MB => 1048576;

# Returns the sums of smaps_rollup over some processes, in bytes.
sub rollup {
    my %sum;
    for my $pid (@_) {
        for (split /\n/, read_file("/proc/$pid/smaps_rollup")) {
            $sum{$1} += $2 * 1024 if /^(\w+):\s+(\d+) kB$/;
        }
    }
    return \%sum;
}

# Requests several answers, because an answer changes pages itself, mostly the first ones.
sub steady {
    my ($t) = @_;
    $t->fresh('/memstat?refresh=zones') for 1 .. 4;
    return $t->fresh('/memstat?refresh=zones');
}

# Passes if the server's memory is its Pss, to 5 percent.
sub takes_what_pss_says {
    my ($t, $when, $reply) = @_;
    SKIP: {
        skip 'only root may read the smaps of all processes', 2 if $>;
        $reply //= steady($t);
        my $pss    = rollup($t->master, children($t->master))->{Pss};
        my $totals = $reply->{totals};
        near $totals->{resident_unique}, $pss, 0.05 * $pss, "$when: as the sum of Pss";
        # The processes touch more pages between the answer and the kernel's count.
        cmp_ok abs($totals->{resident_unique} - $pss), '<=',
            $totals->{resident_unique_error} + 0.03 * $pss + MB / 4, "$when: no more wrong than it says";
        note "$when: $totals->{resident_unique}, Pss $pss, ", $totals->{resident_unique} / $pss;
    }
    return;
}

# Returns the lines of a large map.
sub map_of {
    my ($count) = @_;
    return ">>> big.map\n" . join '', map {qq{"/a/rather/long/path/$_" "/another/rather/long/path/$_";\n}}
        1 .. $count;
}

run_tests();

__DATA__

=== TEST 1: workers that share a large configuration
--- main_config
worker_processes 8;
--- http_config
map_hash_max_size 200000;
map_hash_bucket_size 128;
map $uri $new { include $TEST_NGINX_SERVER_ROOT/html/big.map; }
--- config
location /memstat { memstat; }
location / { return 200 $new; }
--- user_files eval
::map_of(40000)
--- perl
takes_what_pss_says($t, 'at first');
my $reply = steady($t);
cmp_ok $reply->{totals}{resident}, '>', 2 * $reply->{totals}{resident_unique}, 'much is shared';
$t->reload->old_gone;
takes_what_pss_says($t, 'after a reload', $t->fresh('/memstat'));
takes_what_pss_says($t, 'later');
$t->reload->old_gone;
takes_what_pss_says($t, 'after one more reload', $t->fresh('/memstat'));

=== TEST 2: private and shared pages of a process, as in smaps
--- main_config
worker_processes 3;
--- http_config
lua_shared_dict dict 8m;
init_by_lua_block { table_of = {} for i = 1, 500000 do table_of[i] = i end }
--- config
location /memstat { memstat; }
location /fill {
    content_by_lua_block {
        if ngx.worker.pid() == tonumber(ngx.var.arg_pid) then
            for i = 1, 2000 do ngx.shared.dict:set(i, string.rep("x", 1000)) end
            package.loaded.mine = string.rep("x", 8 * 1048576)
        end
        ngx.say(ngx.worker.pid())
    }
}
--- perl
SKIP: {
    skip 'only root may read the smaps of all processes', 1 if $>;
    my ($worker) = $t->workers;
    $t->get_from($worker, "/fill?pid=$worker");
    my $begun = milliseconds();
    my $reply = steady($t);
    for my $pid ($t->workers) {
        my $system = process_of($reply, $pid)->{system};
        my $rollup = rollup($pid);
        is $system->{resident_private} + $system->{resident_shared}, $system->{resident}, 'all of it';
        near $system->{resident_private}, $rollup->{Private_Clean} + $rollup->{Private_Dirty},
            64 * page_size(), 'private';
        near $system->{resident_shared}, $rollup->{Shared_Clean} + $rollup->{Shared_Dirty},
            64 * page_size(), 'shared';
        cmp_ok $system->{shared_ms_ago}, '<=', milliseconds() - $begun + 1, 'for one of these answers';
    }
    my %private = map { $_ => process_of($reply, $_)->{system}{resident_private} } $t->workers;
    my ($least) = sort { $a <=> $b } values %private;
    cmp_ok $private{$worker}, '>=', $least + 10 * MB, 'what one has filled is its own';
}

=== TEST 3: after the workers have written to what they shared
--- main_config
worker_processes 4;
--- http_config
init_by_lua_block {
    numbers = {}
    for i = 1, 1000000 do numbers[i] = i end
    collectgarbage()
    collectgarbage("stop")
}
--- config
location /memstat { memstat; }
location /write {
    content_by_lua_block {
        math.randomseed(ngx.worker.pid())
        for i = 1, #numbers, 512 do
            if math.random() < 0.5 then numbers[i] = -1 end
        end
        ngx.say(ngx.worker.pid())
    }
}
--- perl
takes_what_pss_says($t, 'before');
my $before = steady($t);
$t->get_from($_, '/write') for $t->workers;
takes_what_pss_says($t, 'after');
my $after = steady($t);
cmp_ok $after->{totals}{resident_unique}, '>', $before->{totals}{resident_unique} + 10 * MB, 'more';

=== TEST 4: a large file that one worker maps
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /map {
    content_by_lua_block {
        local ffi = require "ffi"
        ffi.cdef [[
            int open(const char *, int); int ftruncate(int, long);
            char *mmap(void *, size_t, int, int, int, long);
        ]]
        local fd = ffi.C.open("$TEST_NGINX_SERVER_ROOT/html/large", 0)
        mapped = ffi.C.mmap(nil, 64 * 1048576, 1, 2, fd, 0)
        local sum = 0
        for at = 0, 64 * 1048576 - 1, 4096 do sum = sum + mapped[at] end
        ngx.say(ngx.worker.pid(), " ", sum)
    }
}
--- user_files eval
">>> large\n" . 'x' x (64 * ::MB)
--- perl
$t->get('/map');
takes_what_pss_says($t, 'with the file', $t->fresh('/memstat'));
cmp_ok steady($t)->{totals}{resident_unique}, '>', 64 * MB, 'it is there';

=== TEST 5: shared memory that no process has in its page tables
--- main_config
worker_processes 1;
--- http_config
lua_shared_dict dict 32m;
--- config
location /memstat { memstat; }
location /fill {
    content_by_lua_block {
        for i = 1, 20000 do ngx.shared.dict:set(i, string.rep("x", 1000)) end
        ngx.say(ngx.worker.pid())
    }
}
--- perl
SKIP: {
    skip 'only root may read the smaps of all processes', 3 if $>;
    $t->get('/fill');
    my ($worker) = $t->workers;
    kill 'KILL', $worker;
    $t->successor_of($worker);
    my $totals = steady($t)->{totals};
    my $pss    = rollup($t->master, children($t->master));
    cmp_ok $pss->{Pss_Shmem}, '<', 2 * MB, 'the kernel divides no pages that nobody has';
    cmp_ok $totals->{shared_memory}, '>', 20 * MB, 'they are in RAM all the same';
    near $totals->{resident_unique} - $totals->{shared_memory}, $pss->{Pss} - $pss->{Pss_Shmem},
        0.05 * $pss->{Pss}, 'and count as what the server takes';
}
--- error_log
exited on signal 9
