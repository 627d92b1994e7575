# The master, which has no event loop: its figures are as complete and as fresh as a worker's, and it handles
# signals first.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use JSON::PP ();
use POSIX ();

use Test::Memstat::Background;

use constant MB => 1 << 20;

# Checks that a master has everything that a worker has, with exact sums that agree with the kernel.
sub is_full {
    my ($t, $master) = @_;
    is $master->{state}, 'active', 'the master answers';
    ok defined $master->{$_}, $_
        for qw(generation uptime_s breakdown allocator pools peak zones lua text stacks hooks self);
    return unless $master->{breakdown};
    adds_up($master, 'the master');
    my %status = proc_status($master->{pid});
    near $master->{system}{resident}, $status{VmRSS}, 0.02 * $status{VmRSS}, 'resident';
    near $master->{system}{virtual}, $status{VmSize}, 524288, 'virtual';
    cmp_ok $master->{uptime_s}, '<=', uptime($master->{pid}), 'uptime';
    cmp_ok $master->{allocator}{in_use} + $master->{allocator}{free}, '<=', $master->{allocator}{reserved},
        'in use and free are within reserved';
    is_deeply $master->{notes}, [], 'without a note';
    return;
}

# Starts a server in the background with the configuration of this block. It ends with the block's code.
sub in_background {
    my ($t, $code) = @_;
    my $d = Test::Memstat::Background->new(%{ $t->{sections} })->start;
    eval { $code->($d, $d->master); 1 } or fail "the test died: $@";
    is_deeply [ $d->stop ], [], 'nothing alarming in its error log';
    return;
}

# Requests answers continuously in a separate process. Returns a function that stops this, and returns the
# number of answers, and of answers in which the master has a breakdown.
sub asking {
    my ($t) = @_;
    pipe my $from, my $to or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        my ($go, $answers, $full) = (1, 0, 0);
        local $SIG{TERM} = sub { $go = 0 };
        while ($go) {
            # A worker that exits may close the connection.
            my $answer = eval { $t->get('/memstat?fields=processes.kind,processes.breakdown&refresh=heap') } // next;
            next if $answer->{status} != 200;
            $answers++;
            my $reply = JSON::PP->new->decode($answer->{body});
            $full++ if (process_with($reply, kind => 'master'))[0]{breakdown};
        }
        syswrite $to, "$answers $full";
        POSIX::_exit(0);
    }
    close $to;
    return sub {
        kill 'TERM', $pid;
        my $said = readline $from;
        waitpid $pid, 0;
        return split ' ', $said // '0 0';
    };
}

sub wakes {
    my ($pid) = @_;
    my %status = proc_status($pid);
    return $status{voluntary_ctxt_switches};
}

run_tests();

__DATA__

=== TEST 1: the master has all that a worker has, and a healthy server has no note
--- main_config
worker_processes 2;
--- http_config
limit_req_zone $binary_remote_addr zone=one:1m rate=1000r/s;
--- config
allow 127.0.0.1;
deny all;
location /memstat { memstat; }
--- perl
my $reply = settled($t);
is_full($t, master_of($reply));
is_deeply [ map { @{ $_->{notes} } } @{ $reply->{processes} } ], [], 'no note of anybody';
is master_of($reply)->{hooks}{master}, 'on', 'by a hook';
my $pools = master_of($reply)->{pools};
is_deeply [ map { $_->{kind} } @{ $pools->{by_creator} } ], ['cycle'], 'its pool is the cycle';
my $text = $t->get('/memstat?format=text')->{body};
unlike $text, qr/\bnotes?\b/, 'nor in the text';
unlike $text, qr/^master .*\?/m, 'where the master lacks nothing';
my $page = $t->get('/memstat?format=html')->{body};
unlike $page, qr/href="#notes"|id="notes"|Unknown and inexact figures/, 'nor on the page';
unlike $page, qr/without a breakdown/, 'where nobody is without a breakdown';
my ($line) = grep { /^nginx_memstat_category_resident_bytes\{.*kind="master"/ }
    split /\n/, $t->get('/memstat?format=prometheus')->{body};
ok $line, 'its breakdown is in the metrics';

=== TEST 2: what the configuration takes is there after each reload
--- main_config
load_module $TEST_NGINX_BUILT_ngx_master_test_module;
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
my $main = $t->{sections}{main_config};
my $figures = sub {
    $t->old_gone;
    my $master = master_of($t->fresh);
    is $master->{generation}, $_[0], "generation $_[0]";
    return @{ $master->{allocator} }{qw(in_use pools)};
};
my @before = $figures->(1);
for my $generation (2 .. 4) {
    $t->reload(main_config => "$main\nmaster_test_leak 4m;");
    my @after = $figures->($generation);
    near $after[0] - $before[0], 4 * MB, 0.3 * MB, 'in use grows by what leaks';
    near $after[1], $before[1], 0.1 * MB, 'which is in no pool';
    @before = @after;
}
$t->reload(main_config => "$main\nmaster_test_pool 6m;");
my @after = $figures->(5);
near $after[0] - $before[0], 6 * MB, 0.3 * MB, 'in use grows with the configuration';
near $after[1] - $before[1], 6 * MB, 0.3 * MB, 'and so do pools';
is_full($t, master_of(settled($t)));

=== TEST 3: a master in the background
--- main_config
worker_processes 2;
--- http_config
limit_req_zone $binary_remote_addr zone=one:1m rate=1000r/s;
--- config
location /memstat { memstat; }
location /limited { limit_req zone=one burst=1000; return 204; }
--- perl
in_background($t, sub {
    my ($d, $master) = @_;
    my $reply = settled($d);
    is master_of($reply)->{pid}, $master, 'its pid';
    is_full($t, master_of($reply));
    my $made = master_of($reply)->{zones}{one}{allocations};
    cmp_ok $made, '>', 0, 'what it did before it went there counts';
    # A zone with another size is a new zone.
    $d->reload(http_config => $t->{sections}{http_config} =~ s/1m/2m/r);
    $t->wait_for('the reload', sub { (process_with($d->fresh, kind => 'worker', generation => 2)) == 2 });
    $reply = settled($d);
    is_full($t, master_of($reply));
    is master_of($reply)->{zones}{one}{allocations}, $made, 'it made the new zone';
    is $d->get('/limited')->{status}, 204, 'which is used';
    my $zone = $d->fresh->{shared_zones}{one};
    is $zone->{size}, 2 * MB, 'the new one';
    is $zone->{failures}, 0, 'and all of its failures are counted';
    is sum(map { $_->{zones}{one}{allocations} // 0 } @{ $d->fresh->{processes} }),
        sum(map { $_->{reqs} - $_->{fails} } values %{ $zone->{slots} }) + $zone->{pages}{reqs},
        'no allocation is missing';
});

=== TEST 4: an upgrade of the binary: two masters, each with its own children
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
in_background($t, sub {
    my ($d, $old) = @_;
    master_of($d->fresh);
    my $new = $d->upgrade;
    my %seen;
    $t->wait_for('both answer', sub {
        my $reply  = $d->fresh;
        my $master = master_of($reply);
        my %mine   = map { $_ => 1 } $master->{pid}, $d->workers_of($master->{pid});
        is_deeply [ grep { !$mine{$_} } map { $_->{pid} } @{ $reply->{processes} } ], [], 'its own children'
            or return 1;
        is_full($t, $master) if !$seen{ $master->{pid} }++;
        return $seen{$old} && $seen{$new};
    });
    # The old workers exit and are started again, and the new ones exit.
    my $stop = asking($d);
    kill 'WINCH', $old;
    $t->wait_for('the old workers are gone', sub { !$d->workers_of($old) });
    is master_of($d->fresh)->{pid}, $new, 'the new one answers';
    kill 'HUP', $old;
    $t->wait_for('the old master has workers again', sub { $d->workers_of($old) == 2 });
    kill 'QUIT', $new;
    $t->wait_for('the new master is gone', sub { !kill 0, $new });
    my ($answers, $full) = $stop->();
    cmp_ok $full, '>', 0, "$full of $answers answers had a master with a breakdown";
    my $master = master_of(settled($d));
    is $master->{pid}, $old, 'the old one is back';
    is_full($t, $master);
});

=== TEST 5: signals come first, however often the master is asked
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- no_error_log
\[(?:error|warn)\](?!.*is open to every client)
--- perl
my $stop = asking($t);
for my $generation (2 .. 9) {
    $t->reload;
    $t->signal('USR1');
}
for (1 .. 4) {
    my ($worker) = $t->workers;
    $t->signal('TERM', $worker);
    $t->successor_of($worker);
}
my ($answers, $full) = $stop->();
cmp_ok $answers, '>', 20, "$answers answers";
cmp_ok $full, '>', 0.8 * $answers, "$full of them with the master's breakdown";
my $log = $t->error_log;
is scalar(() = $log =~ /\] [^\n]*: reconfiguring/g), 8, 'each reload was done';
my $me = $t->master;
is scalar(() = $log =~ /\] $me#$me: reopening logs\n/g), 8, 'and the logs were reopened';
is scalar(() = $log =~ /signal 17 \(SIGCHLD\) received from/g) > 0, 1, 'workers were reaped';
is master_of($t->fresh)->{generation}, 9, 'the last configuration';
$t->wait_for('two workers are left', sub { children($t->master) == 2 });
# QUIT while the master is asked: nginx exits by itself, as the end of the block checks.
$stop = asking($t);
$t->wait_for('it is asked', sub { wakes($t->master) > 10 });
$t->signal('QUIT');
$t->wait_for('the workers end', sub { !children($t->master) });
$stop->();

=== TEST 6: an idle master sleeps, and nothing is logged when it wakes
--- main_config
worker_processes 2;
--- config
access_log off;
location /memstat { memstat; }
location /empty { return 204; }
--- perl
settled($t);
my $last = -1;
$t->wait_for('it sleeps again', sub { my $now = wakes($t->master); my $before = $last; $last = $now; $now == $before });
my ($idle, $log) = (wakes($t->master), $t->error_log);
# Longer than any timer that it could have.
$t->get('/empty') for 1 .. 1000;
is wakes($t->master), $idle, 'nobody asks, and it sleeps';
$t->fresh for 1 .. 5;
cmp_ok wakes($t->master), '>=', $idle + 5, 'it wakes when it is asked';
is $t->error_log, $log, 'and nothing is logged';

=== TEST 7: no answer waits for a master that reads its configuration
--- main_config
load_module $TEST_NGINX_BUILT_ngx_master_test_module;
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
my $main = $t->{sections}{main_config};
$t->fresh;
my $go = $t->root . '/html/go';
$t->write_conf(main_config => "$main\nmaster_test_wait $go;");
$t->signal('HUP');
$t->wait_for('it begins', sub { $t->error_log =~ /reconfiguring\n/ });
my $master = master_of($t->fresh);
is $master->{generation}, 1, 'its last figures';
is $master->{state}, 'active', 'it is well';
ok $master->{breakdown}, 'with a breakdown';
cmp_ok $master->{age_ms}, '>=', 60, 'and their age, more than the freshness window';
is scalar(grep { /^all figures: the master is reading a configuration/ } @{ $master->{notes} }), 1, 'a note says so';
is scalar(() = $t->error_log =~ /start worker processes\n/g), 1, 'it still reads';
open my $file, '>', $go or die "cannot write $go: $!\n";
$t->wait_for('the reload', sub { (process_with($t->fresh, kind => 'worker', generation => 2)) == 2 });
$t->old_gone;
$master = master_of(settled($t));
is $master->{generation}, 2, 'then it answers again';
is_full($t, $master);

=== TEST 8: a master that is stopped
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; memstat_timeout 100ms; }
--- perl
$t->fresh;
$t->signal('STOP', $t->master);
my $reply = $t->fresh;
is master_of($reply)->{state}, 'unresponsive', 'it does not answer';
ok master_of($reply)->{breakdown}, 'its last figures are there';
is scalar(active_workers($reply)), 2, 'its workers do answer';
$t->signal('CONT', $t->master);
$t->wait_for('it answers', sub { master_of($t->fresh)->{state} eq 'active' });
is_full($t, master_of(settled($t)));

=== TEST 9: the kernel refuses ppoll: the master as it was when it had read its configuration
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- under
$TEST_NGINX_PROGRAM_confine refuse-ppoll
--- error_log
memstat: no hook on sigsuspend: ppoll failed, errno 1
--- perl
for my $generation (1, 2) {
    my $master = master_of(settled($t));
    is $master->{pid}, $t->master, 'the master';
    is $master->{generation}, $generation, "as of generation $generation";
    is $master->{hooks}{master}, 'off: ppoll failed, errno 1', 'with the reason';
    is sum(map { $_->{resident} } values %{ $master->{breakdown} }), $master->{system}{resident}, 'a breakdown';
    my ($note) = grep { /^all figures: the master does not answer \(off: ppoll failed, errno 1\)/ } @{ $master->{notes} };
    ok $note, 'a note says how old it is' or diag "@{ $master->{notes} }";
    my $later = master_of($t->fresh);
    cmp_ok $later->{age_ms}, '>', $master->{age_ms}, 'and its age grows';
    is $later->{system}{resident}, $master->{system}{resident}, 'while its figures stay';
    $t->reload->old_gone;
}

=== TEST 10: ppoll kills the process: nginx runs as usual
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- under
$TEST_NGINX_PROGRAM_confine kill-ppoll
--- error_log
memstat: no hook on sigsuspend: the child process of the trial was killed
--- perl
my $master = master_of($t->fresh);
is $master->{hooks}{master}, 'off: the child process of the trial was killed', 'off';
ok $master->{breakdown}, 'with a breakdown all the same';
$t->reload;
is scalar(process_with($t->fresh, kind => 'worker', generation => 2)), 2, 'a reload';

=== TEST 11: the hook comes and goes with the configuration
--- main_config
worker_processes 2;
memstat_hooks pool slab lua thread;
--- config
location /memstat { memstat; }
--- perl
my $with = $t->{sections}{config};
my $off = 'off: not among memstat_hooks';
for (1 .. 2) {
    my $master = master_of($t->fresh);
    is $master->{hooks}{master}, $off, 'not wanted';
    is scalar(grep { /^all figures: the master does not answer \(\Q$off\E\)/ } @{ $master->{notes} }), 1, 'a note';
    $t->reload(main_config => "worker_processes 2;\n")->old_gone;
    is_full($t, master_of(settled($t)));
    $t->reload(config => 'location /memstat { return 204; }')->old_gone;
    is $t->get('/memstat')->{status}, 204, 'no location';
    $t->reload(config => $with)->old_gone;
    is_full($t, master_of(settled($t)));
    $t->reload(main_config => "worker_processes 2;\nmemstat_hooks pool slab lua thread;\n")->old_gone;
}

=== TEST 12: without a master process, answers have no master
--- main_config
master_process off;
--- config
location /memstat { memstat; }
--- perl
my $reply = settled($t);
is_deeply [ map { $_->{kind} } @{ $reply->{processes} } ], ['single'], 'one process';
is $reply->{processes}[0]{hooks}{master}, undef, 'no hook on a master';
is_deeply $reply->{processes}[0]{notes}, [], 'and no note';

=== TEST 13: a master that is woken continuously still kills a worker that does not exit
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- error_log
exited on signal 9
--- perl
# The master's eventfds, by pidfd_open and pidfd_getfd.
my $pidfd = syscall 434, $t->master, 0;
my @wakers = map { syscall 438, $pidfd, $_, 0 }
    grep { (readlink('/proc/' . $t->master . "/fd/$_") // '') =~ /eventfd/ } 0 .. 200;
cmp_ok scalar @wakers, '>', 1, 'what wakes it';
my ($stopped) = $t->workers;
$t->signal('STOP', $stopped);
$t->signal('TERM');
my $one = pack 'Q', 1;
# nginx waits 50 ms, 100 ms, and so on, until that is more than a second. Meanwhile, each wake-up is followed
# by another as soon as the master has read it.
my $is_read = sub { read_file("/proc/self/fdinfo/$_[0]") =~ /^eventfd-count:\s+0$/m };
$t->wait_for('it is ended', sub {
    for (1 .. 1000) {
        POSIX::write($_, $one, 8) for grep { $is_read->($_) } @wakers;
    }
    return !grep { $_ == $stopped } children($t->master);
});
delete $t->{stopped}{$stopped};
POSIX::close($_) for $pidfd, @wakers;
