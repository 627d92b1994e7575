# An nginx that runs in the background, as in production: its master is no child of the test, and its binary
# can be upgraded.
package Test::Memstat::Background;

use strict;
use warnings;

use parent 'Test::Memstat::Server';

use Test::Memstat::Configuration qw(binary);
use Test::Memstat::Proc qw(read_file);

sub write_conf {
    my ($self, %changed) = @_;
    $self->SUPER::write_conf(%changed);
    my $conf = read_file($self->conf_path) =~ s/^daemon off;/daemon on;/mr;
    open my $file, '>', $self->conf_path or die "cannot write: $!\n";
    print $file $conf;
    close $file or die "cannot write: $!\n";
    return $self;
}

sub start {
    my ($self) = @_;
    my @command = (binary(), '-p', $self->root . '/', '-c', $self->conf_path, '-e', $self->root . '/logs/error.log');
    system(@command) == 0 or die "nginx does not start\n";
    $self->{master} = $self->wait_for('the master', sub { $self->pid_in('nginx.pid') });
    $self->wait_for('its workers', sub { $self->_runs });
    return $self;
}

# Returns the pid in a file, such as nginx.pid, or undef if there is no file.
sub pid_in {
    my ($self, $name) = @_;
    my ($pid) = (read_file($self->root . "/$name") // '') =~ /^(\d+)/;
    return $pid;
}

# Returns the workers of a master that are not shutting down.
sub workers_of {
    my ($self, $master) = @_;
    return grep { (read_file("/proc/$_/cmdline") // '') =~ /^nginx: worker process\0*$/ } Test::Memstat::Proc::children($master);
}

# Makes the master start a new master from the binary. Returns the new master's pid once it has workers.
sub upgrade {
    my ($self) = @_;
    my $old = $self->master;
    my $workers = $self->workers_of($old);
    kill 'USR2', $old;
    return $self->wait_for('the new master', sub {
        my $pid = $self->pid_in('nginx.pid');
        return $pid && $pid != $old && $self->workers_of($pid) == $workers && $pid;
    });
}

# Stops all masters. Returns a sentence for everything that went wrong.
sub stop {
    my ($self) = @_;
    delete $self->{master} or return;
    for my $pid (grep { $_ } map { $self->pid_in($_) } qw(nginx.pid nginx.pid.oldbin)) {
        kill 'QUIT', $pid;
        $self->wait_for("$pid is gone", sub { !kill 0, $pid });
    }
    return grep { /\[(?:alert|crit|emerg)\]|panicked/ } split /\n/, $self->error_log;
}

1;
