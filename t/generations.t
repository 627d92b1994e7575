# More processes than the zone was planned for, and processes that are about to exit.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

# Returns the errors in an answer about running processes: each must be there, with its kind and state.
sub wrong {
    my ($t, $reply, %with) = @_;
    my %told = map { $_->{pid} => $_ } @{ $reply->{processes} };
    my @wrong;
    for my $pid ($t->children) {
        my $title = read_file("/proc/$pid/cmdline") or next;
        my $process = $told{$pid};
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

=== TEST 3: workers that exit are not in the answer, and no answer waits for them
--- main_config
worker_processes 4;
--- config
location /memstat { memstat; }
location /grow {
    content_by_lua_block { big = {} for i = 1, 96 do big[i] = string.rep(i .. "x", 500000) end }
}
--- perl
my ($answers, @wrong) = (0);
for my $round (1 .. 8) {
    $t->get('/grow') for 1 .. 12;
    my @old = $t->workers;
    kill HUP => $t->master;
    $t->wait_for('the old workers are gone', sub {
        my $reply = $t->memstat;
        $answers++;
        for my $process (@{ $reply->{processes} }) {
            push @wrong, "$process->{kind} $process->{state}: @{ $process->{notes} }"
                if $process->{kind} eq 'other' || !defined $process->{system}{virtual};
        }
        my %now = map { $_ => 1 } children($t->master);
        return !grep { $now{$_} } @old;
    });
}
is_deeply \@wrong, [], "no process without memory in $answers answers";

=== TEST 4: no answer waits for a process that was killed before it answered
--- main_config
worker_processes 2;
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
$t->signal(KILL => $stopped);
my $reply = $t->decode($client->receive->{body});
is scalar(process_with($reply, pid => $stopped)), 0, 'and the process is not in it';
is process_of($reply, $other)->{state}, 'active', 'the other is';

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
--- config
location /memstat { memstat; }
location /status { stub_status; }
location /busy {
    content_by_lua_block {
        local function exists(name)
            local file = io.open(ngx.var.document_root .. name)
            return file and file:close()
        end
        local function write(name, text)
            local file = io.open(ngx.var.document_root .. name, "w")
            file:write(text)
            file:close()
        end
        write("/busy", tostring(ngx.worker.pid()) .. "\n")
        while not exists("/go") do os.execute("sleep 0.02") end
        ngx.say("done")
    }
}
--- perl
chmod 0777, $t->root . '/html';
$t->fresh;
my $busy = $t->connect->send(GET => '/busy');
my ($pid) = $t->wait_for('a worker is busy', sub { (read_file($t->root . '/html/busy') // '') =~ /^(\d+)\n/ ? $1 : undef });
my $client = $t->expire->connect->send(GET => '/memstat');
# The other one keeps the worker busy.
$t->wait_for('the request waits for it', sub { $t->status->{writing} == 2 });
ok !$client->has_begun, 'there is no answer yet';
$t->signal(TERM => $pid);
open my $go, '>', $t->root . '/html/go' or die;
close $go;
my $reply = $t->decode($client->receive->{body});
isnt $reply->{answered_by}{pid}, $pid, 'the other worker answers';
is scalar(grep { $_->{pid} == $pid } @{ $reply->{processes} }), 0, 'the one that ended is not there';
