# One reply has every process, with the kernel's figures and exact sums.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

# Compares every figure of a reply that /proc has with /proc, and checks the sums.
sub check_processes {
    my ($reply) = @_;
    for my $process (@{ $reply->{processes} }) {
        my $who    = "$process->{kind} $process->{pid}";
        my $system = $process->{system};
        my %status = proc_status($process->{pid});
        near $system->{resident}, $status{VmRSS}, 0.02 * $status{VmRSS}, "$who: resident";
        # The heap may have grown since the snapshot, to make the answer.
        near $system->{virtual}, $status{VmSize}, 524288, "$who: virtual";
        is $system->{swap},    $status{VmSwap}, "$who: swap";
        near $system->{page_tables}, $status{VmPTE}, 32768, "$who: page tables";
        cmp_ok $system->{peak_resident}, '>=', $system->{resident}, "$who: the peak";
        near $system->{peak_resident}, $status{VmHWM}, 0.02 * $status{VmHWM}, "$who: the peak";
        is $system->{resident},
            sum(@$system{qw(resident_anon resident_file resident_shmem)}),
            "$who: resident is anon, file and shmem";
        check_breakdown($process);
    }
    return;
}

sub check_breakdown {
    my ($process) = @_;
    my $who       = "$process->{kind} $process->{pid}";
    my $breakdown = $process->{breakdown};
    if (!$breakdown) {
        isnt "@{ $process->{notes} }", '', "$who: a note says why there is no breakdown";
        return;
    }
    adds_up($process, $who);
    for my $name (sort keys %$breakdown) {
        my ($resident, $reserved) = @{ $breakdown->{$name} }{qw(resident reserved)};
        cmp_ok $resident, '<=', $reserved, "$who: $name: resident is within reserved";
        is $resident % page_size(), 0, "$who: $name: whole pages";
    }
    return;
}

run_tests();

__DATA__

=== TEST 1: four workers and the master
--- main_config
worker_processes 4;
--- config
location /memstat { memstat; }
--- perl
my $reply = settled($t);
my @workers = active_workers($reply);
is_deeply pids(@workers), [ children($t->master) ], 'the workers are the children of the master';
is_deeply [ map { $_->{id} } @workers ], [ 0 .. 3 ], 'their numbers, in order';
is_deeply pids(process_with($reply, kind => 'master')), [ $t->master ], 'the master';
is scalar @{ $reply->{processes} }, 5, 'nobody else';
is $reply->{processes}[0]{kind}, 'master', 'the master comes first';
my $answered = process_of($reply, $reply->{answered_by}{pid});
is $answered->{id}, $reply->{answered_by}{id}, 'who answered is among them';
ok !(grep { !$_->{breakdown} } @workers), 'every worker has a breakdown';
check_processes($reply);

=== TEST 2: totals
--- main_config
worker_processes 3;
--- http_config
limit_req_zone $binary_remote_addr zone=one:10m rate=1000r/s;
--- config
limit_req zone=one burst=1000;
location /memstat { memstat; }
--- perl
$t->memstat for 1 .. 5;
my $reply = $t->fresh;
my $totals = $reply->{totals};
my @systems = map { $_->{system} } @{ $reply->{processes} };
is $totals->{processes}, 4, 'processes';
is $totals->{resident}, sum(map { $_->{resident} } @systems), 'resident';
is $totals->{swap}, sum(map { $_->{swap} } @systems), 'swap';
cmp_ok $totals->{resident_unique}, '<', $totals->{resident}, 'what is shared counts once';
cmp_ok $totals->{resident_unique}, '>=',
    sum(map { $_->{resident_private} // 0 } @systems) + $totals->{shared_memory} / 2, 'and all else';
my ($most) = sort { $b <=> $a } map { $_->{breakdown} ? $_->{breakdown}{nginx_shm}{resident} : 0 }
    @{ $reply->{processes} };
cmp_ok $totals->{shared_memory}, '>=', $most, 'no process has more of it loaded than there is';
my $reserved = process_of($reply, ($t->workers)[0])->{breakdown}{nginx_shm}{reserved};
cmp_ok $totals->{shared_memory}, '<=', $reserved, 'nor more than is reserved';

=== TEST 3: cache manager and cache loader
--- http_config
proxy_cache_path $TEST_NGINX_SERVER_ROOT/cache keys_zone=cache:1m;
--- config
location /memstat { memstat; }
--- perl
my $is = sub {
    my ($kind) = @_;
    return grep { read_file("/proc/$_/cmdline") =~ /^nginx: cache $kind process/ }
        children($t->master);
};
$t->wait_for('the cache processes', sub { $is->('manager') && $is->('loader') });
my $reply = $t->wait_for('the cache processes are known by kind', sub {
    my $reply = settled($t);
    return process_with($reply, kind => 'cache_manager') && process_with($reply, kind => 'cache_loader')
        ? $reply : undef;
});
is_deeply pids(process_with($reply, kind => 'cache_manager')), [ $is->('manager') ], 'manager';
is_deeply pids(process_with($reply, kind => 'cache_loader')), [ $is->('loader') ], 'loader';
is_deeply pids(process_with($reply, kind => 'worker')), [ $t->workers ], 'worker';
is scalar @{ $reply->{processes} }, 4, 'nobody else';
is $_->{id}, undef, "$_->{kind} has no number"
    for grep { $_->{kind} ne 'worker' } @{ $reply->{processes} };
check_processes($reply);

=== TEST 4: the privileged agent
--- http_config
init_by_lua_block {
    local enabled, why = require("ngx.process").enable_privileged_agent()
    if not enabled then
        ngx.log(ngx.ERR, why)
    end
}
--- config
location /memstat { memstat; }
--- perl
return pass 'this nginx has no privileged agent'
    if $t->output =~ /missing privileged agent process patch/;
my $agent = $t->wait_for('the agent', sub {
    my ($pid) = grep { read_file("/proc/$_/cmdline") =~ /^nginx: privileged agent process/ }
        children($t->master);
    return $pid;
});
my $reply = $t->wait_for('the agent is known by kind', sub {
    my $reply = settled($t);
    return process_with($reply, kind => 'privileged_agent') ? $reply : undef;
});
is_deeply pids(process_with($reply, kind => 'privileged_agent')), [$agent], 'its pid';
is scalar @{ $reply->{processes} }, 3, 'nobody else';
check_processes($reply);

=== TEST 5: a single process
--- main_config
master_process off;
--- config
location /memstat { memstat; }
--- perl
my $reply = settled($t);
is_deeply [ map { $_->{kind} } @{ $reply->{processes} } ], ['single'], 'kind';
is_deeply pids(@{ $reply->{processes} }), [ $t->master ], 'pid';
is $reply->{processes}[0]{state}, 'active', 'state';
is $reply->{answered_by}{pid}, $t->master, 'who answered';
ok $reply->{processes}[0]{breakdown}, 'a breakdown';
check_processes($reply);
$t->fresh for 1 .. 3;
is $t->fresh->{processes}[0]{state}, 'active', 'still';

=== TEST 6: uptime
--- config
location /memstat { memstat; }
--- perl
# The uptime starts after the process was created, and before its first answer.
my %started = map { $_->{pid} => uptime($_->{pid}) } @{ $t->fresh->{processes} };
$t->wait_for('seconds pass', sub { process_of($t->memstat, ($t->workers)[0])->{uptime_s} >= 2 });
my %before = map { $_ => uptime($_) } keys %started;
for my $process (@{ $t->fresh->{processes} }) {
    my $pid = $process->{pid};
    cmp_ok $process->{uptime_s}, '<=', uptime($pid), "$process->{kind}: no more than since its start";
    cmp_ok $process->{uptime_s}, '>', $before{$pid} - $started{$pid} - 1.02, "$process->{kind}: all since its first answer";
}

=== TEST 7: memory that grows is in the next answer
--- config
location /memstat { memstat; }
location /grow {
    content_by_lua_block {
        local ffi = require "ffi"
        ffi.cdef "void *malloc(size_t); void *memset(void *, int, size_t);"
        ffi.C.memset(ffi.C.malloc(20 * 1048576), 1, 20 * 1048576)
    }
}
--- perl
my ($worker) = $t->workers;
my $before = process_of(settled($t), $worker);
is $t->get('/grow')->{status}, 200, 'grows';
my $reply = $t->fresh;
my $after = process_of($reply, $worker);
for my $figure (qw(resident resident_anon virtual)) {
    near $after->{system}{$figure} - $before->{system}{$figure}, 20 * 1048576, 1048576, $figure;
}
check_processes($reply);

=== TEST 8: many requests, the same processes
--- main_config
worker_processes 4;
--- config
location /memstat { memstat; }
--- perl
my $expected = [ $t->master, sort { $a <=> $b } $t->workers ];
my %answered;
for (1 .. 200) {
    my $reply = $t->memstat;
    $answered{ $reply->{answered_by}{pid} }++;
    my @active = process_with($reply, state => 'active');
    is_deeply [ map { $_->{pid} } @active ], $expected, "request $_" or last;
}
cmp_ok scalar keys %answered, '>=', 1, 'answered by ' . join ' ', sort keys %answered;

=== TEST 9: more processes than the default zone was first made for
--- main_config
worker_processes 40;
--- config
location /memstat { memstat; }
--- perl
my $reply = $t->memstat;
is_deeply pids(active_workers($reply)), [ $t->workers ], 'all are there';

=== TEST 10: processes that do not belong to nginx are not in the answer
--- http_config
init_worker_by_lua_block {
    local ffi = require "ffi"
    ffi.cdef "int fork(void); unsigned sleep(unsigned); void _exit(int);"
    if ngx.worker.id() == 0 then
        local pid = ffi.C.fork()
        if pid == 0 then
            ffi.C.sleep(600)
            ffi.C._exit(0)
        end
    end
}
--- config
location /memstat { memstat; }
--- error_log
unknown process \d+ exited on signal 9
--- perl
my ($worker) = $t->workers;
my ($stranger) = children($worker);
ok $stranger, 'the worker has a child';
my $reply = $t->fresh;
is_deeply pids(@{ $reply->{processes} }), pids(map { { pid => $_ } } $t->master, $worker), 'but it is not there';
is process_of($reply, $worker)->{state}, 'active', 'the worker answers as ever';
kill 'KILL', $stranger;
$t->wait_for('it is gone', sub { !children($worker) && $t->error_log =~ /unknown process/ });
