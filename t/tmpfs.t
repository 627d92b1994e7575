# Files on tmpfs: the kernel counts them as shared memory, but they are not nginx's.
BEGIN { $ENV{TMPDIR} = '/dev/shm' }

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use constant MB => 1048576;

# Returns the sum of a line of smaps over the matching mappings of processes.
sub smaps {
    my ($line, $like, @pids) = @_;
    my $sum = 0;
    for my $pid (@pids) {
        my $counts;
        for (split /\n/, read_file("/proc/$pid/smaps")) {
            if    (/^[0-9a-f]+-[0-9a-f]+ /)                { $counts = $_ =~ $like }
            elsif ($counts && /^\Q$line\E:\s+(\d+) kB/) { $sum += $1 * 1024 }
        }
    }
    return $sum;
}

run_tests();

__DATA__

=== TEST 1: a module on tmpfs
--- module_copy: 1
--- main_config
worker_processes 2;
--- http_config
limit_req_zone $binary_remote_addr zone=one:1m rate=1000r/s;
--- config
limit_req zone=one burst=1000;
location /memstat { memstat; }
--- perl
SKIP: {
    skip 'only root may read the smaps of all processes', 1 if $>;
    $t->fresh('/memstat?refresh=zones') for 1 .. 4;
    my $reply = $t->fresh('/memstat?refresh=zones');
    my @pids  = ($t->master, children($t->master));
    for my $pid ($t->workers) {
        cmp_ok smaps('Rss', qr{/dev/shm/}, $pid), '>', MB / 2, 'the module is on tmpfs';
        my $process = process_of($reply, $pid);
        adds_up($process, 'the worker');
        near $process->{breakdown}{nginx_shm}{resident}, smaps('Rss', qr{ rw-s .*/dev/zero}, $pid),
            8 * page_size(), "nginx's shared memory is its zones";
    }
    my $pss = smaps('Pss', qr/./, @pids);
    near $reply->{totals}{resident_unique}, $pss, 0.05 * $pss, 'the server takes what Pss says';
    note $reply->{totals}{resident_unique} / $pss;
}
