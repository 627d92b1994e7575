# The life cycle of a server: signals to the master, upgrades of the binary, a replaced module, a second
# nginx, many workers.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use Test::Memstat::Background;
use Test::Memstat::Configuration qw(binary);

# Runs nginx with the server's configuration and more arguments. Returns its output.
sub nginx {
    my ($t, @arguments) = @_;
    my @command = (binary(), '-p', $t->root . '/', '-c', $t->conf_path, '-e', $t->root . '/logs/error.log', @arguments);
    my $said = `@{[ join ' ', map { "'$_'" } @command ]} 2>&1`;
    return ($? >> 8, $said);
}

run_tests();

__DATA__

=== TEST 1: a second nginx tests the configuration and signals the first
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
my ($before, @workers) = ($t->fresh, $t->workers);
for (1 .. 3) {
    my ($code, $said) = nginx($t, '-t');
    is $code, 0, 'the configuration is fine';
    unlike $said, qr/memstat: /, 'and nothing of ours is said';
}
is_deeply [ $t->workers ], \@workers, 'the workers are as they were';
is scalar(@{ $t->fresh->{processes} }), scalar(@{ $before->{processes} }), 'and so is the answer';
my ($code) = nginx($t, '-s', 'reload');
is $code, 0, 'a reload';
$t->wait_for('new workers', sub { my @new = $t->workers; @new == 2 && $new[0] != $workers[0] });
$t->wait_for('their generation', sub {
    my @known = process_with($t->fresh, kind => 'worker', generation => 2);
    return @known == 2;
});
($code) = nginx($t, '-s', 'reopen');
is $code, 0, 'reopened logs';
is scalar(process_with($t->fresh, kind => 'worker', generation => 2)), 2, 'the same workers';

=== TEST 2: QUIT while a request goes on
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $upstream = silent_server($t->port(1));
my ($clients, $held) = held($t, $upstream, '/slow');
my $idle = $t->connect->send(GET => '/memstat');
$idle->receive;
$t->signal('QUIT');
$t->wait_for('one worker is left', sub { children($t->master) == 1 });
$held->[0]->syswrite("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
is $clients->[0]->receive->{body}, 'ok', 'the request is answered';
$t->wait_for('the last worker ends', sub { !children($t->master) });
--- error_log
gracefully shutting down

=== TEST 3: TERM while requests go on
--- main_config
worker_processes 3;
--- config
location /memstat { memstat; }
--- perl
# The answer waits for a stopped worker.
my ($stopped) = $t->workers;
$t->signal('STOP', $stopped);
my @clients = map { $t->connect->send(GET => '/memstat') } 1 .. 6;
$t->signal('TERM');
$t->signal('CONT', $stopped);
$t->wait_for('all workers end', sub { !children($t->master) });
--- error_log
signal 15

=== TEST 4: the binary is upgraded, and the upgrade is rolled back
--- perl
my $d = Test::Memstat::Background->new(
    main_config => 'worker_processes 2;', config => 'location /memstat { memstat; }',
)->start;
my $old = $d->master;
my $new;
eval {
    my @old = $d->workers;
    $new = $d->upgrade;
    for (1 .. 20) {
        my $reply = $d->fresh;
        my $master = master_of($reply)->{pid};
        ok $master == $old || $master == $new, 'an answer of one of the servers';
        my %mine = map { $_ => 1 } $d->workers_of($master);
        is_deeply [ grep { !$mine{$_} } map { $_->{pid} } process_with($reply, kind => 'worker') ], [],
            'with its own workers';
        ok defined $_->{pools}, 'and their pools' for process_with($reply, kind => 'worker');
    }
    # The old workers exit and are started again, and the new ones exit.
    kill 'WINCH', $old;
    $t->wait_for('the old workers are gone', sub { !$d->workers_of($old) });
    is master_of($d->fresh)->{pid}, $new, 'the new ones answer';
    kill 'HUP', $old;
    $t->wait_for('the old master has workers again', sub { $d->workers_of($old) == 2 });
    kill 'QUIT', $new;
    $t->wait_for('the new master is gone', sub { !kill 0, $new });
    my $reply = $d->fresh;
    is master_of($reply)->{pid}, $old, 'the old one answers';
    is scalar(active_workers($reply)), 2, 'with its workers';
    my %old = map { $_ => 1 } @old;
    is scalar(grep { $old{ $_->{pid} } } process_with($reply, kind => 'worker')), 0, 'which are new';
    1;
} or fail "the test died: $@";
is_deeply [ $d->stop ], [], 'nothing alarming in its error log';

=== TEST 5: the module is replaced on disk
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- module_copy
1
--- perl
for my $round (1 .. 3) {
    $t->copy_module->reload;
    my $reply = $t->fresh;
    my @workers = active_workers($reply);
    is scalar(@workers), 2, 'both workers answer';
    is $_->{generation}, $round + 1, 'of the new generation' for @workers;
    # Each request is counted once, so no function is hooked twice.
    my ($worker) = $t->workers;
    my $created = sub { sum(map { $_->{created} } grep { $_->{kind} eq 'request' } map { @{ $_->{pools}{by_creator} } }
        active_workers($t->fresh)) };
    my $before = $created->();
    $t->get('/empty') for 1 .. 10;
    is $created->() - $before, 11, 'requests are counted once';
}

=== TEST 6: 64 workers
--- main_config
worker_processes 64;
events { worker_connections 64; }
--- config
location /memstat { memstat; }
--- perl
my $reply = $t->wait_for('all of them answer', sub {
    my $reply = $t->fresh;
    my @fresh = grep { $_->{breakdown} && $_->{pools} } active_workers($reply);
    return @fresh == 64 && $reply;
});
is_deeply [ map { $_->{id} } process_with($reply, kind => 'worker') ], [ 0 .. 63 ], 'each once';
$t->reload(main_config => "worker_processes 3;\nevents { worker_connections 64; }");
$t->wait_for('three are left', sub { children($t->master) == 3 });
is scalar(active_workers($t->fresh)), 3, 'and answer';
$t->reload(main_config => "worker_processes 64;\nevents { worker_connections 64; }");
$t->wait_for('and 64 again', sub {
    my @fresh = grep { $_->{breakdown} } active_workers($t->fresh);
    return @fresh == 64;
});
pass '64 again';
