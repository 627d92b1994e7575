# More processes than the zone was planned for, and processes that are about to exit.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

# Returns the errors in an answer about running processes: each must be there, with its kind and state.
sub wrong {
    my ($t, $reply, %with) = @_;
    my %found = map { $_->{pid} => $_ } @{ $reply->{processes} };
    my @wrong;
    for my $pid ($t->children) {
        my $title = read_file("/proc/$pid/cmdline") or next;
        my $process = $found{$pid};
        if (!$process) { push @wrong, "$pid is not there"; next }
        my $state = $title =~ /shutting down/ ? 'shutting_down' : 'active';
        push @wrong, "$pid is $process->{state}, not $state" if $process->{state} ne $state;
        push @wrong, "$pid has no breakdown: @{ $process->{notes} }"
            if !$process->{breakdown} && ($state eq 'active' || !$with{without_old});
        push @wrong, "$pid: @{ $process->{notes} }" if grep { /under way/ } @{ $process->{notes} };
    }
    return @wrong;
}

# No client waits for memstat_timeout, which is much longer than its own timeout.
run_tests();

__DATA__

=== TEST 1: old workers of many generations
--- main_config
worker_processes 4;
--- config
location /memstat { memstat; }
location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $upstream = silent_server($t->port(1));
my (@held, %generations);
while (children($t->master) < 28) {
    push @held, [ held($t, $upstream, '/slow', 12) ];
    $t->reload;
}
my $reply = $t->wait_for('all processes are right', sub {
    my $reply = $t->fresh;
    return wrong($t, $reply) ? undef : $reply;
}) // $t->fresh;
is_deeply [ wrong($t, $reply) ], [], 'each process is what it is, with a breakdown';
$generations{ $_->{generation} }++ for process_with($reply, kind => 'worker');
is $generations{ 1 + @held }, 4, 'all workers of the newest generation';
cmp_ok scalar keys %generations, '>=', 4, 'and of old ones';
my @replies = map { $t->fresh } 1 .. 5;
is_deeply [ map { wrong($t, $_) } @replies ], [], 'it stays so';
@held = ();
$t->old_gone;
is_deeply [ wrong($t, $t->fresh) ], [], 'and so it is afterwards';

=== TEST 2: a zone with fewer slots than processes
--- main_config
worker_processes 1;
--- http_config
memstat_zone size=384k;
--- config
location /memstat { memstat; }
location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $upstream = silent_server($t->port(1));
my @held;
for (1 .. 14) {
    push @held, [ held($t, $upstream, '/slow') ];
    $t->reload;
}
is scalar(children($t->master)), 15, 'processes';
my $reply = $t->wait_for('the worker that serves has a slot', sub {
    my $reply = $t->fresh;
    return wrong($t, $reply, without_old => 1) ? undef : $reply;
}) // $t->fresh;
is_deeply [ wrong($t, $reply, without_old => 1) ], [], 'the worker that serves goes before old ones';
my @old = process_with($reply, kind => 'worker', state => 'shutting_down');
is scalar @old, 14, 'all old ones are there';
my @without = grep { !$_->{breakdown} } @old;
cmp_ok scalar @without, '>', 0, 'some of them without a slot';
ok $_->{system}{resident}, "what the kernel says of $_->{pid} is there" for @without;

splice @held, 0, 7;
$t->wait_for('some are gone', sub { children($t->master) == 8 });
$reply = $t->wait_for('the others have slots', sub {
    my $reply = $t->fresh;
    return wrong($t, $reply) ? undef : $reply;
}) // $t->fresh;
is_deeply [ wrong($t, $reply) ], [], 'free slots are claimed';

=== TEST 3: workers that exit are not in the answer
--- main_config
load_module $TEST_NGINX_BUILT_ngx_ending_test_module;
worker_processes 2;
ending_test_give_back 384m;
--- config
location /memstat { memstat; }
--- perl
# The kernel has taken the memory of a worker and still works at its end: it has no title then.
my $is_ending = sub {
    my %status = proc_status($_[0]);
    return $status{State} && $status{State} !~ /^[ZX]/ && !defined $status{VmSize};
};
my ($meanwhile, $answers, @wrong) = (0, 0);
for my $round (1 .. 20) {
    my ($ending, $other) = $t->workers;
    kill TERM => $ending;
    while (kill 0 => $ending) {
        my $before = $is_ending->($ending);
        # One that it has taken in ends with it.
        my $reply = eval { $t->memstat } // next;
        $meanwhile++ if $before && $is_ending->($ending);
        $answers++;
        push @wrong, map { "$_->{kind} $_->{state}: @{ $_->{notes} }" }
            grep { $_->{kind} eq 'other' || !defined $_->{system}{virtual} } @{ $reply->{processes} };
    }
    $t->wait_for('its successor', sub { $t->workers == 2 });
    last if $meanwhile >= 5;
}
cmp_ok $meanwhile, '>', 0, 'answers while a worker had no memory any more and was no zombie yet';
is_deeply \@wrong, [], "no process without memory in $answers answers";

=== TEST 4: no answer waits for a process that was killed before it answered
--- main_config
worker_processes 2;
--- http_config
memstat_hooks pool slab lua thread;
--- config
location /memstat { memstat; }
location /status { stub_status; }
--- error_log
exited on signal 9
--- perl
my ($stopped, $other) = $t->workers;
$t->fresh;
$t->signal(STOP => $stopped);
my $client = $t->expire->connect->send(GET => '/memstat');
$t->wait_for('the request waits for it', sub { $t->status->{writing} == 1 });
ok !$client->has_begun, 'there is no answer yet';
# The master neither reaps it nor makes a successor, which would wake who asked.
$t->signal(STOP => $t->master);
$t->signal(KILL => $stopped);
my $reply = $t->decode($client->receive->{body});
is scalar(process_with($reply, pid => $stopped)), 0, 'and the process is not in it';
is process_of($reply, $other)->{state}, 'active', 'the other is';
$t->signal(CONT => $t->master);
$t->wait_for('the successor', sub { $t->workers == 2 });

=== TEST 5: a killed worker that the master has not reaped
--- main_config
worker_processes 2;
--- http_config
memstat_hooks pool slab lua thread;
--- config
location /memstat { memstat; }
--- error_log
worker process \d+ exited on signal 9
--- perl
my ($killed, $other) = $t->workers;
$t->fresh;
# The master is not asked, so no answer waits for it.
$t->signal(STOP => $t->master);
$t->signal(KILL => $killed);
$t->wait_for('it has ended', sub { my %status = proc_status($killed); ($status{State} // 'Z') =~ /^Z/ });
my $reply = $t->fresh;
is_deeply pids(process_with($reply, kind => 'worker')), [$other], 'nobody waits for it, and it is not there';
$t->signal(CONT => $t->master);
$t->wait_for('the successor', sub { $t->workers == 2 });

=== TEST 6: a worker that ends before it answers
--- main_config
worker_processes 2;
--- http_config
memstat_hooks pool slab lua thread;
--- config
location /memstat { memstat; }
location /status { stub_status; }
--- perl
my ($ends, $other) = $t->workers;
$t->fresh;
$t->signal(STOP => $ends);
my $client = $t->expire->connect->send(GET => '/memstat');
$t->wait_for('the request waits for it', sub { $t->status->{writing} == 1 });
ok !$client->has_begun, 'there is no answer yet';
# Nobody takes its place, which would wake who asked: it must do so itself when it ends.
$t->signal(STOP => $t->master);
$t->signal(TERM => $ends);
$t->signal(CONT => $ends);
my $reply = $t->decode($client->receive->{body});
is $reply->{answered_by}{pid}, $other, 'the other worker answers';
is scalar(process_with($reply, pid => $ends)), 0, 'the one that ended is not there';
$t->signal(CONT => $t->master);
$t->wait_for('the successor', sub { $t->workers == 2 });

=== TEST 7: a worker that has left and still runs
--- main_config
load_module $TEST_NGINX_BUILT_ngx_ending_test_module;
worker_processes 2;
ending_test_wait 3s;
--- config
location /memstat { memstat; }
--- perl
my ($ends, $other) = $t->workers;
$t->fresh;
$t->signal(TERM => $ends);
my @replies;
$t->wait_for('it has ended', sub { push @replies, $t->fresh; !kill 0 => $ends });
my @found = map { process_with($_, pid => $ends) } @replies;
cmp_ok scalar @replies, '>', 3, 'answers meanwhile';
is_deeply [ map { "@{ $_->{notes} }" } grep { !$_->{breakdown} } @found ], [], 'each process has its breakdown, or is absent';

=== TEST 8: more workers than the default zone has room for otherwise
--- main_config
worker_processes 530;
events { worker_connections 16; }
--- config
location /memstat { memstat; }
--- perl
my $reply = $t->wait_for('all answer', sub {
    my $reply = $t->fresh;
    return (grep { @{ $_->{notes} } } @{ $reply->{processes} }) ? undef : $reply;
});
is_deeply [ wrong($t, $reply) ], [], 'each process is what it is, with a breakdown';
is scalar @{ $reply->{processes} }, 531, 'no more and no less';
