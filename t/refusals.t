# Something is refused to the module: the server runs, the section is null with a reason, and the error log
# has a line about it.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

# Returns the workers in an answer, once each of them has answered itself.
sub workers_of {
    my ($t) = @_;
    my %there = map { $_ => 1 } $t->workers;
    my @workers;
    $t->wait_for('the workers', sub {
        @workers = grep { $there{ $_->{pid} } && $_->{hooks} } process_with($t->fresh, kind => 'worker');
        return @workers == keys %there;
    });
    return @workers;
}

# Passes if a section is null in all workers, with the reason in hooks, in notes, and once in the log.
sub off {
    my ($t, $hook, $reason) = @_;
    for my $process (workers_of($t)) {
        like $process->{hooks}{$hook}, qr/^off: $reason$/, "$hook: off";
        ok $process->{breakdown}, 'with a breakdown' or diag join "\n", @{ $process->{notes} };
        if ($hook eq 'pool') {
            is $process->{pools}, undef, 'no pools';
            is scalar(grep { /^pools, allocator\.pools, peak\.pools: $reason$/ } @{ $process->{notes} }), 1, 'a note';
        }
    }
    my %what = (pool => "nginx's pools", slab => "nginx's slab allocator");
    my $lines = () = $t->error_log =~ /\[warn\].*memstat: no hook on $what{$hook}: $reason$/mg;
    return $lines;
}

# Passes if all requests are answered.
sub serves {
    my ($t) = @_;
    is join(' ', map { $t->get('/empty')->{status} } 1 .. 20), join(' ', (204) x 20), 'nginx serves';
    return;
}

# Sends an order to t/tools/refuse.c.
sub order {
    my ($t, $order) = @_;
    open my $file, '+<:raw', $t->root . '/html/refuse' or die "cannot write: $!\n";
    print $file pack 'q<2', $order, 0;
    close $file;
    return;
}

sub counted {
    my ($t) = @_;
    return (unpack 'q<2', read_file($t->root . '/html/refuse'))[1];
}

run_tests();

__DATA__

=== TEST 1: writable memory must not become executable
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- under
$TEST_NGINX_PROGRAM_confine mdwe
--- perl
is off($t, $_ => 'mprotect failed, errno 13'), 1, "$_: said once" for qw(pool slab);
serves($t);
$t->reload->old_gone;
is off($t, pool => 'mprotect failed, errno 13'), 2, 'and once at a reload';
serves($t);

=== TEST 2: mprotect with PROT_EXEC fails
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- under
$TEST_NGINX_PROGRAM_confine refuse
--- perl
is off($t, $_ => 'mprotect failed, errno 1'), 1, "$_: said once" for qw(pool slab);
serves($t);

=== TEST 3: mprotect with PROT_EXEC kills
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- under
$TEST_NGINX_PROGRAM_confine kill
--- perl
is off($t, $_ => 'the child process of the trial was killed'), 1, "$_: said once" for qw(pool slab);
serves($t);
$t->reload;
serves($t);

=== TEST 4: no /proc
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- under
unshare --mount sh -c 'umount -l /proc && exec "$@"' sh
--- perl
serves($t);
for my $process (workers_of($t)) {
    is $process->{breakdown}, undef, 'no breakdown';
    is $process->{system}{resident}, undef, 'nothing of the kernel';
    ok scalar(grep { m{^breakdown\b.*: /proc/self/maps} } @{ $process->{notes} }), 'why'
        or diag join "\n", @{ $process->{notes} };
}
--- error_log
memstat: no hook on nginx's pools: the mappings of the process cannot be read

=== TEST 5: /proc hides other processes from workers
--- main_config
worker_processes 2;
user nobody nogroup;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- under
unshare --mount sh -c 'mount -t proc -o hidepid=2 proc /proc && exec "$@"' sh
--- perl
my $reply = $t->memstat;
is scalar(process_with($reply, kind => 'worker')), 2, 'both workers are there';
ok $_->{breakdown}, 'with a breakdown' for process_with($reply, kind => 'worker');
my $master = process_of($reply, $t->master);
is $master->{kind}, 'master', 'and so is the master';
ok $master->{breakdown}, 'which reads its own figures';
is_deeply $master->{notes}, [], 'all of them';
is scalar(grep { /^\S+ \/proc proc .*hidepid/ } split /\n/, read_file('/proc/mounts')), 0, 'only there';
serves($t);

=== TEST 6: each allocation of the module fails once
--- main_config
worker_processes 1;
env REFUSE;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- user_files
>>> refuse
0123456789abcde
--- env
LD_PRELOAD=$TEST_NGINX_LIBRARY_refuse
REFUSE=$TEST_NGINX_SERVER_ROOT/html/refuse
--- perl
my ($worker) = $t->workers;
order($t, 0);
$t->fresh for 1 .. 2;
order($t, 1 << 40);
$t->fresh;
my $allocations = counted($t);
cmp_ok $allocations, '>', 100, "a reply takes $allocations allocations";
my $step = int($allocations / ($ENV{TEST_NGINX_COUNT} // 150)) || 1;
my %seen;
for (my $nth = 1; $nth <= $allocations; $nth += $step) {
    order($t, $nth);
    my $answer = $t->expire->get('/memstat');
    $seen{ $answer->{status} }++;
    $t->decode($answer->{body}) if $answer->{status} == 200;
}
order($t, 0);
is_deeply [ keys %seen ], [200], 'the reserve serves each time';
my $reply = $t->fresh;
is_deeply [ $t->workers ], [$worker], 'the worker lives on';
my ($note) = grep { /^self: the system refused the module memory \d+ times/ }
    @{ process_of($reply, $worker)->{notes} };
ok $note, "and says so: " . ($note // '');

order($t, -1);
for (1 .. 10) {
    my $answer = $t->expire->get('/memstat');
    is $answer->{status}, 200, 'even when all of them fail';
    $t->decode($answer->{body});
}
order($t, 0);
is_deeply [ $t->workers ], [$worker], 'the worker lives on';
serves($t);

=== TEST 7: no memory for the module at the start
--- main_config
worker_processes 1;
env REFUSE;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- user_files
>>> refuse
0123456789abcde
--- env
LD_PRELOAD=$TEST_NGINX_LIBRARY_refuse
REFUSE=$TEST_NGINX_SERVER_ROOT/html/refuse
--- perl
order($t, -1);
$t->reload for 1 .. 3;
$t->memstat for 1 .. 3;
order($t, 0);
serves($t);
$t->reload;
ok process_with($t->fresh, kind => 'worker'), 'and on';
